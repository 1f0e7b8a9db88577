//! The noise schedule of Stable Diffusion 1.x, in the terms of Karras et al. 2022: x = x0 + sigma * noise.
//!
//! Training mixed sqrt(ac) x0 + sqrt(1 - ac) noise at 1000 times with "scaled linear" betas. Dividing by sqrt(ac) gives
//! the same process with sigma = sqrt((1 - ac) / ac), which the samplers of k-diffusion, and so the original, use.

/// Times of the training schedule.
pub const TRAIN_STEPS: usize = 1000;
/// The first and last beta of training.
const BETAS: (f64, f64) = (0.00085, 0.012);

/// The training schedule: sigma of every time, and the way back.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Natural logarithms of the 1000 sigmas, ascending.
    log_sigmas: Vec<f64>,
}

/// The two parts of an ancestral step: down to `down` without noise, then up to the next sigma with noise of `up`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ancestral {
    pub down: f64,
    pub up: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        let log_sigmas = alphas_cumprod().into_iter().map(|ac| 0.5 * ((1.0 - ac) / ac).ln()).collect();
        Schedule { log_sigmas }
    }
}

/// The 1000 betas: linear in their square roots.
pub fn betas() -> Vec<f64> {
    let (first, last) = (BETAS.0.sqrt(), BETAS.1.sqrt());
    (0..TRAIN_STEPS).map(|i| (first + (last - first) * i as f64 / (TRAIN_STEPS - 1) as f64).powi(2)).collect()
}

/// Cumulative products of 1 - beta, rounded to fp32 as checkpoints store them; without the rounding, sigmas differ by 3e-5.
pub fn alphas_cumprod() -> Vec<f64> {
    let mut product = 1.0;
    let mut next = |beta: f64| {
        product *= 1.0 - beta;
        f64::from(product as f32)
    };
    betas().into_iter().map(&mut next).collect()
}

impl Schedule {
    /// `n` sigmas, descending, for times spread evenly from 999 to 0, and a final 0.
    pub fn sigmas(&self, n: usize) -> Vec<f64> {
        let last = (TRAIN_STEPS - 1) as f64;
        let time = |i: usize| if n > 1 { last * (1.0 - i as f64 / (n - 1) as f64) } else { last };
        (0..n).map(|i| self.sigma(time(i))).chain([0.0]).collect()
    }

    /// Sigma at time `t` (clamped to 0..=999): linear between the logarithms of neighbours.
    pub fn sigma(&self, t: f64) -> f64 {
        let t = t.clamp(0.0, (TRAIN_STEPS - 1) as f64);
        let (low, part) = (t.floor() as usize, t.fract());
        let at = |i: usize| self.log_sigmas.get(i).copied().unwrap_or_default();
        ((1.0 - part) * at(low) + part * at(low + 1)).exp()
    }

    /// The time of a sigma, fractional, clamped to 0..=999; this is the `t` that the UNet is given.
    pub fn time(&self, sigma: f64) -> f64 {
        let log = sigma.ln();
        let low = self.log_sigmas.partition_point(|&x| x <= log).saturating_sub(1).min(TRAIN_STEPS - 2);
        match self.log_sigmas.get(low..low + 2) {
            Some(&[a, b]) => low as f64 + ((log - a) / (b - a)).clamp(0.0, 1.0),
            _ => 0.0,
        }
    }
}

/// Splits the step from `from` down to `to` (Euler ancestral, eta 1): noise of `up` replaces as much as the step allows.
pub fn ancestral(from: f64, to: f64) -> Ancestral {
    let up = to.min((to * to * (from * from - to * to) / (from * from)).sqrt());
    Ancestral { down: (to * to - up * up).sqrt(), up }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_the_inverse_of_sigma() {
        let schedule = Schedule::default();
        for t in [0.0, 0.25, 1.0, 17.5, 500.0, 998.9, 999.0] {
            assert!((schedule.time(schedule.sigma(t)) - t).abs() < 1e-9, "{t}");
        }
        assert_eq!(schedule.time(1e-9), 0.0);
        assert_eq!(schedule.time(1e9), 999.0);
    }

    #[test]
    fn sigmas_descend_from_the_largest_to_zero() {
        let schedule = Schedule::default();
        for n in [1, 2, 7, 100, 1000] {
            let sigmas = schedule.sigmas(n);
            assert_eq!(sigmas.len(), n + 1);
            assert!((sigmas[0] - 14.6146).abs() < 1e-3);
            assert!(sigmas.windows(2).all(|w| w[0] > w[1]) && sigmas[n] == 0.0);
        }
    }

    /// The variance after an ancestral step is that of the next sigma.
    #[test]
    fn ancestral_steps_keep_the_variance() {
        for (from, to) in [(14.6, 7.0), (1.0, 0.99), (0.5, 0.1), (0.03, 0.0)] {
            let step = ancestral(from, to);
            assert!((step.down.powi(2) + step.up.powi(2) - to * to).abs() < 1e-12);
            assert!(step.up <= to && step.down <= to);
        }
    }
}
