//! The models of a worker: found at its start, loaded when a stage first needs them.

use crate::failure::{Result, failure, model};
use crate::models::clip::Clip;
use crate::models::text_encoder::TextEncoder;
use crate::models::{UNet, Vae, Weights};
use candle_core::{DType, Device, Tensor};
use ip2p_pipeline::spec::{self, Dtype, Spec};
use ip2p_pipeline::task::Cause;
use std::path::{Path, PathBuf};

/// Stable Diffusion, ready to draw.
pub struct Diffusion {
    pub unet: UNet,
    pub vae: Vae,
    pub text: TextEncoder,
    /// Text states of the empty prompt, [1, tokens, width].
    pub empty: Tensor,
}

/// Where the weights lie on this machine.
struct Paths {
    diffusion: PathBuf,
    vae: Option<PathBuf>,
    clip: PathBuf,
    llm: Option<PathBuf>,
}

/// Everything that can be loaded, and what is.
pub struct Models {
    paths: Paths,
    dtype: DType,
    device: Device,
    diffusion: Option<Diffusion>,
    clip: Option<Clip>,
}

impl Models {
    /// Finds device and weights; loads nothing yet.
    pub async fn prepare(spec: &Spec) -> Result<Self> {
        let device = device(spec.run.device)?;
        let dtype = match spec.stages.pairs.dtype {
            Dtype::Auto if device.is_cpu() => DType::F32,
            Dtype::Auto | Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
            Dtype::F32 => DType::F32,
        };
        if device.is_cpu() && dtype != DType::F32 {
            return Err(failure(Cause::BadInput, "stages.pairs.dtype: a CPU computes in f32 only: write `dtype: auto` or `f32`"));
        }
        let paths = Paths {
            diffusion: find(&spec.models.diffusion).await?,
            vae: find_optional(spec.models.vae.as_deref()).await?,
            clip: find(&spec.models.clip).await?,
            llm: find_optional(spec.models.llm.as_deref()).await?,
        };
        Ok(Models { paths, dtype, device, diffusion: None, clip: None })
    }

    /// What this worker would compute on, for people.
    pub fn describe_device() -> String {
        let threads = candle_core::utils::get_num_threads();
        if candle_core::utils::cuda_is_available() { "cuda".to_string() } else { format!("cpu, {threads} threads") }
    }

    /// What drawing and scoring need.
    pub fn for_pairs(&mut self) -> Result<(&Diffusion, &Clip)> {
        if self.diffusion.is_none() {
            self.diffusion = Some(Diffusion::load(&self.paths, self.dtype, &self.device).map_err(model)?);
        }
        if self.clip.is_none() {
            // Scores decide what is kept: they are computed in full precision on every device.
            self.clip = Some(Clip::open(&self.paths.clip, DType::F32, &self.device).map_err(model)?);
        }
        match (&self.diffusion, &self.clip) {
            (Some(diffusion), Some(clip)) => Ok((diffusion, clip)),
            _ => Err(failure(Cause::Bug, "models vanished while they were loaded")),
        }
    }
}

impl Diffusion {
    fn load(paths: &Paths, dtype: DType, device: &Device) -> crate::models::Result<Self> {
        let path = &paths.diffusion;
        let unet = UNet::open(path, false, dtype, device)?;
        // The decoder's last layers overflow in half precision.
        let vae = Vae::open(paths.vae.as_deref().unwrap_or(path), DType::F32, device)?;
        let text = open_text_encoder(path, dtype, device)?;
        let empty = text.encode(&[""])?;
        Ok(Diffusion { unet, vae, text, empty })
    }
}

fn open_text_encoder(path: &Path, dtype: DType, device: &Device) -> crate::models::Result<TextEncoder> {
    if path.is_dir() {
        TextEncoder::from_folder(path, dtype, device)
    } else {
        TextEncoder::from_checkpoint(&Weights::open(path)?, dtype, device)
    }
}

fn device(wanted: spec::Device) -> Result<Device> {
    let cuda = || Device::new_cuda(0).map_err(|e| failure(Cause::BadInput, format!("run.device: no CUDA device: {e}")));
    match wanted {
        spec::Device::Cpu => Ok(Device::Cpu),
        spec::Device::Cuda => cuda(),
        spec::Device::Auto if candle_core::utils::cuda_is_available() => cuda(),
        spec::Device::Auto => Ok(Device::Cpu),
    }
}

/// A model reference as a local path.
async fn find(reference: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(reference))
}

async fn find_optional(reference: Option<&str>) -> Result<Option<PathBuf>> {
    match reference {
        Some(reference) => find(reference).await.map(Some),
        None => Ok(None),
    }
}
