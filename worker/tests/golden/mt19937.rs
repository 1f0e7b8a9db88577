//! The generators of the original, needed to follow its runs: MT19937 (Matsumoto and Nishimura, 1998) as PyTorch uses it on a
//! CPU, and as numpy's `RandomState` does. Runs of this program draw from `ip2p_pipeline::rng` instead.

use serde::Deserialize;

use super::place::file;
use super::support::{assert_written, json};

struct Mt19937 {
    state: [u32; 624],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        for i in 1..624 {
            state[i] = 1_812_433_253u32.wrapping_mul(state[i - 1] ^ state[i - 1] >> 30).wrapping_add(i as u32);
        }
        Mt19937 { state, next: 624 }
    }

    fn twist(&mut self) {
        let state = &mut self.state;
        for i in 0..624 {
            let y = state[i] & 0x8000_0000 | state[(i + 1) % 624] & 0x7fff_ffff;
            state[i] = state[(i + 397) % 624] ^ y >> 1 ^ if y & 1 == 1 { 0x9908_b0df } else { 0 };
        }
        self.next = 0;
    }

    fn output(&mut self) -> u32 {
        if self.next == 624 {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }
}

/// The first outputs after seeding with `seed`.
fn outputs<const N: usize>(seed: u32) -> [u32; N] {
    let mut generator = Mt19937::new(seed);
    std::array::from_fn(|_| generator.output())
}

/// The first seed of a run.
pub fn first_seed(global_seed: u32) -> u32 {
    outputs::<2>(global_seed)[1]
}

/// What the original draws for the sample with this seed: (uniform for the threshold, uniform for guidance, next seed).
pub fn draw(seed: u32) -> (f64, f64, u32) {
    let [p2p, cfg, _, next] = outputs::<4>(seed);
    let uniform = |x: u32| f64::from(x & 0x00ff_ffff) / f64::from(1u32 << 24);
    (uniform(p2p), uniform(cfg), next)
}

/// `numpy.random.RandomState(seed).permutation(n)`: the order in which the original's text generator takes its captions.
pub fn permutation(seed: u32, n: u32) -> Vec<usize> {
    let mut generator = Mt19937::new(seed);
    let mut order: Vec<usize> = (0..n as usize).collect();
    for i in (1..n).rev() {
        let mask = u32::MAX >> i.leading_zeros();
        let other = std::iter::repeat_with(|| generator.output() & mask).find(|&j| j <= i).unwrap();
        order.swap(i as usize, other as usize);
    }
    order
}

#[test]
fn golden_rng_chain() {
    #[derive(Deserialize)]
    struct File {
        chains: Vec<Chain>,
    }
    #[derive(Deserialize)]
    struct Chain {
        global_seed: u32,
        samples: Vec<Sample>,
    }
    #[derive(Deserialize)]
    struct Sample {
        seed: u32,
        next_seed: u32,
    }
    let Some(path) = file("selection", "rng_chain.json") else { return };
    let text = std::fs::read_to_string(&path).unwrap();
    let file: File = json(&path);
    assert!(!file.chains.is_empty());
    for Chain { global_seed, samples } in file.chains {
        let mut seed = first_seed(global_seed);
        for sample in samples {
            let (p2p, cfg, next) = draw(seed);
            assert_eq!((sample.seed, sample.next_seed), (seed, next));
            assert_written(&text, "p2p_threshold", 0.1 + p2p * (0.9 - 0.1));
            assert_written(&text, "cfg_scale", 7.5 + cfg * (15.0 - 7.5));
            seed = next;
        }
    }
}
