//! Counter-based random streams.
//!
//! Every random number of a run is a pure function of (run seed, triplet id, sample number, purpose)
//! and its position in the stream; workers, partitions, order, attempts and time never enter.
//! The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
//! chosen because a GPU can compute any position of a stream on its own.

use crate::ids::TripletId;

/// What a stream is for; two purposes never share a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The candidate's seed: its name in the released formats.
    Seed,
    /// The Prompt-to-Prompt threshold of a candidate.
    P2pThreshold,
    /// The guidance scale of a candidate.
    Guidance,
    /// Initial latents (draw 0) and the noise of every ancestral step (draws 1..).
    Noise,
    /// Token sampling of the language model.
    Tokens,
    /// The shuffled order of triplets and pairs in the final shards.
    Shuffle,
    /// Spreads retries in time; never reaches the data.
    Jitter,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::Seed => "seed",
            Purpose::P2pThreshold => "p2p-threshold",
            Purpose::Guidance => "guidance",
            Purpose::Noise => "noise",
            Purpose::Tokens => "tokens",
            Purpose::Shuffle => "shuffle",
            Purpose::Jitter => "jitter",
        }
    }
}

/// One stream of 32-bit numbers with random access.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    /// The upper half of every block's counter.
    nonce: [u32; 2],
    position: u64,
}

impl Stream {
    /// The stream of one sample of a triplet for one purpose.
    pub fn new(run_seed: u64, triplet: TripletId, sample: u32, purpose: Purpose) -> Self {
        Self::keyed(run_seed, triplet.bytes(), sample, purpose)
    }

    /// The stream of any 16-byte id (a caption's, a triplet's, a pair's).
    pub fn keyed(run_seed: u64, id: &[u8; 16], sample: u32, purpose: Purpose) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"ip2p stream 1");
        hasher.update(&run_seed.to_le_bytes());
        hasher.update(id);
        hasher.update(&sample.to_le_bytes());
        hasher.update(purpose.name().as_bytes());
        let hash = hasher.finalize();
        let word = |i: usize| {
            let b = &hash.as_bytes()[4 * i..4 * i + 4];
            u32::from_le_bytes([b[0], b[1], b[2], b[3]])
        };
        Stream { key: [word(0), word(1)], nonce: [word(2), word(3)], position: 0 }
    }

    /// Moves to the `position`-th 32-bit number.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
    }

    pub fn next_u32(&mut self) -> u32 {
        let block = self.position / 4;
        let lane = (self.position % 4) as usize;
        self.position += 1;
        philox4x32_10([block as u32, (block >> 32) as u32, self.nonce[0], self.nonce[1]], self.key)[lane]
    }

    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1) with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [low, high).
    pub fn uniform_in(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Fills `out` with standard normal numbers: numbers `draw * out.len() ..` of the stream's normals.
    ///
    /// Box-Muller over one Philox block for four normals; `libm` gives the same bits on every platform.
    pub fn normals(&self, draw: u64, out: &mut [f32]) {
        let first = draw * out.len().div_ceil(4) as u64;
        for (i, chunk) in out.chunks_mut(4).enumerate() {
            let block = first + i as u64;
            let words = philox4x32_10([block as u32, (block >> 32) as u32, self.nonce[0], self.nonce[1]], self.key);
            let normals = box_muller(words);
            chunk.copy_from_slice(&normals[..chunk.len()]);
        }
    }
}

/// Two Box-Muller transforms; u1 lies in (0, 1], so that its logarithm is finite.
fn box_muller(words: [u32; 4]) -> [f32; 4] {
    const SCALE: f64 = 1.0 / 4_294_967_296.0;
    let mut out = [0.0; 4];
    for half in 0..2 {
        let u1 = (f64::from(words[2 * half]) + 1.0) * SCALE;
        let u2 = f64::from(words[2 * half + 1]) * SCALE;
        let radius = libm::sqrt(-2.0 * libm::log(u1));
        let angle = 2.0 * std::f64::consts::PI * u2;
        out[2 * half] = (radius * libm::cos(angle)) as f32;
        out[2 * half + 1] = (radius * libm::sin(angle)) as f32;
    }
    out
}

/// Ten rounds of Philox4x32 with the constants of the paper.
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [(p1 >> 32) as u32 ^ counter[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ counter[3] ^ key[1], p0 as u32];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    fn stream(sample: u32, purpose: Purpose) -> Stream {
        Stream::new(42, TripletId::of("a", "b", "c"), sample, purpose)
    }

    #[test]
    fn seek_equals_reading_on() {
        let mut read = stream(0, Purpose::Tokens);
        let numbers: Vec<u32> = (0..100).map(|_| read.next_u32()).collect();
        for position in [0usize, 1, 3, 4, 63, 99] {
            let mut sought = stream(0, Purpose::Tokens);
            sought.seek(position as u64);
            assert_eq!(sought.next_u32(), numbers[position]);
        }
    }

    #[test]
    fn streams_differ_by_sample_and_purpose() {
        let first = |s: u32, p| stream(s, p).next_u64();
        assert_ne!(first(0, Purpose::Noise), first(1, Purpose::Noise));
        assert_ne!(first(0, Purpose::Noise), first(0, Purpose::Guidance));
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let mut out = vec![0f32; 1 << 18];
        stream(0, Purpose::Noise).normals(0, &mut out);
        let n = out.len() as f64;
        let mean = out.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = out.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
    }

    #[test]
    fn draws_do_not_overlap() {
        let (mut a, mut b) = ([0f32; 10], [0f32; 10]);
        let s = stream(0, Purpose::Noise);
        s.normals(0, &mut a);
        s.normals(1, &mut b);
        assert!(a.iter().all(|x| !b.contains(x)));
    }
}
