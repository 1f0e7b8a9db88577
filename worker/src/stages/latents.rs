//! The unfused form of candidates: final latents, one tensor [2, c, h, w] a pair, in a safetensors object.

use crate::failure::{Result, domain, failure};
use bytes::Bytes;
use candle_core::{Device, Tensor};
use ip2p_pipeline::Error;
use ip2p_pipeline::task::Cause;
use std::collections::HashMap;

/// Names are pair ids.
pub(super) fn encode(latents: Vec<(String, Tensor)>) -> Result<Bytes> {
    let bytes = safetensors::serialize(latents, None).map_err(|e| failure(Cause::Bug, format!("latents: {e}")))?;
    Ok(bytes.into())
}

/// Reads all tensors of an object; `what` names it in messages.
pub(super) fn decode(what: &str, bytes: &[u8]) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(|e| domain(Error::format(what, e)))
}
