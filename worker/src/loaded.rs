//! The models of a worker: found at its start, loaded when a stage first needs them.

use crate::failure::{Result, domain, failure, model};
use crate::hub::{self, Needs};
use crate::models::clip::Clip;
use crate::models::llm::Llm;
use crate::models::text_encoder::TextEncoder;
use crate::models::{UNet, Vae, Weights};
use candle_core::{DType, Device, Tensor};
use ip2p_pipeline::file_hashes::FileHashes;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::model_id;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec::{self, Dtype, Spec};
use ip2p_pipeline::task::{Cause, Failure};
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
    llm: Option<Llm>,
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
            diffusion: find(&spec.models.diffusion, Needs::Diffusion).await.map_err(at("models.diffusion"))?,
            vae: find_optional(spec.models.vae.as_deref(), Needs::Vae).await.map_err(at("models.vae"))?,
            clip: find(&spec.models.clip, Needs::Clip).await.map_err(at("models.clip"))?,
            llm: find_optional(spec.models.llm.as_deref(), Needs::Llm).await.map_err(at("models.llm"))?,
        };
        Ok(Models { paths, dtype, device, diffusion: None, clip: None, llm: None })
    }

    /// The models of a plan: exactly those that it was made for.
    pub async fn of_plan(plan: &Plan) -> Result<Self> {
        let spec = Spec { models: plan.weights().clone(), ..plan.spec.clone() };
        let models = Self::prepare(&spec).await?;
        let planned = &plan.models;
        let weights = &spec.models;
        check_store(&weights.diffusion, Some(planned.diffusion)).await?;
        check_store(&weights.clip, Some(planned.clip)).await?;
        for (reference, planned) in [(&weights.vae, planned.vae), (&weights.llm, planned.llm)] {
            if let Some(reference) = reference {
                check_store(reference, planned).await?;
            }
        }
        Ok(models)
    }

    /// What this worker would compute on, for people.
    pub fn describe_device() -> String {
        let threads = candle_core::utils::get_num_threads();
        if candle_core::utils::cuda_is_available() { "cuda".to_string() } else { format!("cpu, {threads} threads") }
    }

    /// What drawing and scoring need.
    pub fn for_pairs(&mut self) -> Result<(&Diffusion, &Clip)> {
        if self.diffusion.is_none() {
            self.diffusion = Some(Diffusion::load(&self.paths, self.dtype, &self.device)?);
        }
        if self.clip.is_none() {
            // Scores decide what is kept: they are computed in full precision on every device.
            self.clip = Some(Clip::open(&self.paths.clip, DType::F32, &self.device).map_err(model).map_err(at("models.clip"))?);
        }
        match (&self.diffusion, &self.clip) {
            (Some(diffusion), Some(clip)) => Ok((diffusion, clip)),
            _ => Err(failure(Cause::Bug, "models vanished while they were loaded")),
        }
    }
}

impl Models {
    /// Loads what draws anew, if it was loaded.
    pub fn refresh(&mut self) -> Result<()> {
        let loaded = [self.diffusion.take().is_some(), self.clip.take().is_some()];
        if loaded.contains(&true) {
            self.for_pairs()?;
        }
        Ok(())
    }

    /// The language model of `prompts: { backend: local }`.
    pub fn for_prompts(&mut self) -> Result<&mut Llm> {
        if self.llm.is_none() {
            let path = self.paths.llm.as_deref();
            let path = path
                .ok_or_else(|| failure(Cause::BadInput, "models.llm is not set: `prompts: { backend: local }` needs a language model"))?;
            self.llm = Some(Llm::open(path, self.dtype, &self.device).map_err(model).map_err(at("models.llm"))?);
        }
        self.llm.as_mut().ok_or_else(|| failure(Cause::Bug, "models vanished while they were loaded"))
    }
}

impl Diffusion {
    fn load(paths: &Paths, dtype: DType, device: &Device) -> Result<Self> {
        let path = &paths.diffusion;
        let of_diffusion = |e| at("models.diffusion")(model(e));
        let unet = UNet::open(path, false, dtype, device).map_err(of_diffusion)?;
        let (vae, key) = paths.vae.as_deref().map_or((path.as_path(), "models.diffusion"), |vae| (vae, "models.vae"));
        // The decoder's last layers overflow in half precision.
        let vae = Vae::open(vae, DType::F32, device).map_err(|e| at(key)(model(e)))?;
        let text = open_text_encoder(path, dtype, device).map_err(of_diffusion)?;
        let empty = text.encode(&[""]).map_err(of_diffusion)?;
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
    let cuda = || {
        let advice =
            if cfg!(feature = "cuda") { "check the driver with nvidia-smi" } else { "this program was built without `--features cuda`" };
        let refused = |e| failure(Cause::BadInput, format!("run.device: no CUDA device: {e}; {advice}, or write `device: cpu`"));
        Device::new_cuda(0).map_err(refused)
    };
    match wanted {
        spec::Device::Cpu => Ok(Device::Cpu),
        spec::Device::Cuda => cuda(),
        spec::Device::Auto if candle_core::utils::cuda_is_available() => cuda(),
        spec::Device::Auto => Ok(Device::Cpu),
    }
}

/// Names the key of the spec in a failure.
fn at(key: &'static str) -> impl Fn(Failure) -> Failure {
    move |f| failure(f.cause, format!("{key}: {}", f.message))
}

/// Finds a model's files, fetching those that are not on this machine.
async fn find(reference: &str, needs: Needs) -> Result<PathBuf> {
    hub::resolve(reference, needs).await.map_err(|e| {
        let cause = if e.is_transient() { Cause::Transient } else { Cause::BadInput };
        failure(cause, e.to_string())
    })
}

/// What an object store holds under a name can change: workers that start later must not mix models.
async fn check_store(reference: &str, planned: Option<Fingerprint>) -> Result<()> {
    let remote = reference.split_once("://").is_some_and(|(scheme, _)| !matches!(scheme, "file" | "hf"));
    if !remote || Some(model_id::of_reference(reference, &FileHashes::from_env()).await.map_err(domain)?) == planned {
        return Ok(());
    }
    Err(failure(Cause::BadInput, format!("model `{reference}` has changed since this run was planned: start the run again to plan anew")))
}

async fn find_optional(reference: Option<&str>, needs: Needs) -> Result<Option<PathBuf>> {
    match reference {
        Some(reference) => find(reference, needs).await.map(Some),
        None => Ok(None),
    }
}
