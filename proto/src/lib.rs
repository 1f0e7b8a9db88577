//! The wire protocol, and the only conversions between wire types and domain types.

mod convert;

pub use convert::{ConvertError, failed, leave, one_line, parting, report, stages, wanted};

/// Generated from `proto/ip2p/v1/coordinator.proto`.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("ip2p.v1");
}

/// Raised on every incompatible change of the protocol.
pub const PROTOCOL: u32 = 6;

/// Largest message accepted, in bytes; a plan is the largest one sent.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Longest name of a worker, in bytes.
pub const MAX_NAME_BYTES: usize = 200;

/// Metadata key of the bearer token that workers show.
pub const TOKEN_KEY: &str = "authorization";
