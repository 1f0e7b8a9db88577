//! The samplers: from noise to a sample, given a denoiser.

use candle_core::Tensor;
use ip2p_pipeline::spec::Sampler;

use super::schedule::ancestral;
use crate::models::Result;

/// What a sampler calls: the model, the noise, and whoever watches.
pub trait Process {
    /// The denoised estimate of `x` at `sigma`, in step `step`.
    fn denoise(&mut self, step: usize, x: &Tensor, sigma: f64) -> Result<Tensor>;
    /// Standard normal noise of `x`'s shape; `draw` counts from 1 (0 is the initial noise, which the caller draws).
    fn noise(&mut self, draw: u64, x: &Tensor) -> Result<Tensor>;
    /// Called after every step with the new `x`; an error stops the sampling.
    fn after(&mut self, step: usize, x: &Tensor) -> Result<()>;
}

/// Runs `sampler` along `sigmas` (descending) from `x`, which has noise of the first of them.
pub fn sample(sampler: Sampler, sigmas: &[f64], x: Tensor, process: &mut impl Process) -> Result<Tensor> {
    match sampler {
        Sampler::EulerAncestral => euler_ancestral(sigmas, x, process),
        Sampler::Dpmpp2m => dpmpp_2m(sigmas, x, process),
    }
}

/// Euler steps with fresh noise, as k-diffusion's `sample_euler_ancestral` with eta 1; the last step adds none.
fn euler_ancestral(sigmas: &[f64], mut x: Tensor, process: &mut impl Process) -> Result<Tensor> {
    for (step, pair) in sigmas.windows(2).enumerate() {
        let &[from, to] = pair else { continue };
        let denoised = process.denoise(step, &x, from)?;
        let split = ancestral(from, to);
        let slope = ((&x - denoised)? / from)?;
        x = (x + (slope * (split.down - from))?)?;
        if to > 0.0 {
            x = (&x + (process.noise(step as u64 + 1, &x)? * split.up)?)?;
        }
        process.after(step, &x)?;
    }
    Ok(x)
}

/// DPM-Solver++ (2M): Lu et al., "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models", 2022,
/// algorithm 2 in terms of lambda = -ln sigma. Second order, one model call a step, no noise.
fn dpmpp_2m(sigmas: &[f64], mut x: Tensor, process: &mut impl Process) -> Result<Tensor> {
    // The estimate of the step before, and the length of that step in lambda.
    let mut before: Option<(Tensor, f64)> = None;
    for (step, pair) in sigmas.windows(2).enumerate() {
        let &[from, to] = pair else { continue };
        let denoised = process.denoise(step, &x, from)?;
        let length = (from / to).ln();
        let estimate = match &before {
            // Extrapolated to the middle of the step; the last step ends at sigma 0, where lambda is infinite.
            Some((earlier, earlier_length)) if to > 0.0 => {
                let half_ratio = length / (2.0 * earlier_length);
                ((&denoised * (1.0 + half_ratio))? - (earlier * half_ratio)?)?
            }
            _ => denoised.clone(),
        };
        let kept = to / from;
        x = ((x * kept)? + (estimate * (1.0 - kept))?)?;
        before = Some((denoised, length));
        process.after(step, &x)?;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// The exact denoiser of data from N(0, s^2): E[x0 | x] = x s^2 / (s^2 + sigma^2). The probability flow then is
    /// x(sigma) = x(sigma0) sqrt((s^2 + sigma^2) / (s^2 + sigma0^2)).
    struct Gaussian {
        s: f64,
        calls: usize,
    }

    impl Process for Gaussian {
        fn denoise(&mut self, _: usize, x: &Tensor, sigma: f64) -> Result<Tensor> {
            self.calls += 1;
            Ok((x * (self.s.powi(2) / (self.s.powi(2) + sigma * sigma)))?)
        }

        fn noise(&mut self, draw: u64, x: &Tensor) -> Result<Tensor> {
            let n = x.elem_count();
            let id = ip2p_pipeline::ids::TripletId::of("a", "b", "c");
            let stream = ip2p_pipeline::rng::Stream::new(7, id, 0, ip2p_pipeline::rng::Purpose::Noise);
            let mut out = vec![0f32; n];
            stream.normals(draw, &mut out);
            Ok(Tensor::from_vec(out, n, &Device::Cpu)?.to_dtype(x.dtype())?)
        }

        fn after(&mut self, _: usize, _: &Tensor) -> Result<()> {
            Ok(())
        }
    }

    /// Even steps in ln sigma from 10 to 0.1.
    fn geometric(steps: usize) -> Vec<f64> {
        (0..=steps).map(|i| 10.0 * 0.01f64.powf(i as f64 / steps as f64)).collect()
    }

    fn error_of_dpmpp(steps: usize) -> f64 {
        let mut process = Gaussian { s: 0.5, calls: 0 };
        let x = Tensor::new(&[3.0f64], &Device::Cpu).unwrap();
        let end = sample(Sampler::Dpmpp2m, &geometric(steps), x, &mut process).unwrap().to_vec1::<f64>().unwrap()[0];
        assert_eq!(process.calls, steps, "one model call a step");
        (end - 3.0 * ((0.25 + 0.01f64) / (0.25 + 100.0)).sqrt()).abs()
    }

    #[test]
    fn dpmpp_2m_converges_with_order_two_to_the_exact_flow() {
        let errors: Vec<f64> = [40, 80, 160].into_iter().map(error_of_dpmpp).collect();
        for pair in errors.windows(2) {
            let order = (pair[0] / pair[1]).log2();
            assert!((1.8..2.3).contains(&order), "order {order} of {errors:?}");
        }
        assert!(errors[2] < 1e-4, "{errors:?}");
    }

    /// With the final 0, both samplers end in the last denoised estimate.
    #[test]
    fn the_last_step_returns_the_estimate() {
        for sampler in [Sampler::EulerAncestral, Sampler::Dpmpp2m] {
            let mut process = Gaussian { s: 0.0, calls: 0 };
            let x = Tensor::new(&[3.0f64, -8.0], &Device::Cpu).unwrap();
            let end = sample(sampler, &[14.6, 3.0, 0.5, 0.0], x, &mut process).unwrap();
            assert!(end.to_vec1::<f64>().unwrap().iter().all(|x| x.abs() < 1e-12), "{sampler:?}");
        }
    }

    /// Ancestral sampling of the Gaussian gives samples of its standard deviation.
    #[test]
    fn euler_ancestral_samples_the_distribution() {
        let n = 20_000;
        let mut process = Gaussian { s: 0.5, calls: 0 };
        let x = (process.noise(0, &Tensor::zeros(n, DType::F32, &Device::Cpu).unwrap()).unwrap() * (0.25f64 + 100.0).sqrt()).unwrap();
        let mut sigmas = geometric(100);
        sigmas.push(0.0);
        let end = sample(Sampler::EulerAncestral, &sigmas, x, &mut process).unwrap().to_vec1::<f32>().unwrap();
        let deviation = (end.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64).sqrt();
        assert!((deviation - 0.5).abs() < 0.03, "standard deviation {deviation}");
    }
}
