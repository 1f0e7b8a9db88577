//! From logits to the next token: pure functions of the logits and one random stream.

use ip2p_pipeline::rng::Stream;
use std::collections::HashMap;

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token always.
    pub temperature: f64,
    /// Keeps the likeliest tokens whose probabilities add up to this, in (0, 1]; 1 keeps all.
    pub top_p: f64,
    /// Subtracted from a token's logit for each time it was already generated, as OpenAI's API defines it.
    pub frequency_penalty: f64,
}

impl Sampling {
    /// The next token id. Draws one number from `rng` unless the temperature is 0.
    pub(super) fn choose(&self, logits: &[f32], counts: &HashMap<u32, u32>, rng: &mut Stream) -> u32 {
        let mut logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
        for (&id, &count) in counts {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit -= self.frequency_penalty * f64::from(count);
            }
        }
        if self.temperature <= 0.0 {
            return likeliest(&logits);
        }
        let nucleus = nucleus(&logits, self.temperature, self.top_p);
        draw(&nucleus, rng.uniform())
    }
}

/// The largest logit's id; the smaller id among equals, and never a NaN.
fn likeliest(logits: &[f64]) -> u32 {
    let best = logits.iter().enumerate().filter(|(_, l)| !l.is_nan()).reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(0, |(id, _)| id as u32)
}

/// Ids and unnormalised probabilities, likeliest first, until they reach `top_p` of the whole (Holtzman et al. 2020).
fn nucleus(logits: &[f64], temperature: f64, top_p: f64) -> Vec<(u32, f64)> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weight = |&logit: &f64| ((logit - largest) / temperature).exp();
    let mut weights: Vec<(u32, f64)> = (0..).zip(logits.iter().map(weight)).filter(|(_, w)| *w > 0.0).collect();
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if top_p < 1.0 {
        let enough = top_p * weights.iter().map(|(_, w)| w).sum::<f64>();
        let mut sum = 0.0;
        let last = weights.iter().position(|(_, w)| {
            sum += w;
            sum >= enough
        });
        weights.truncate(last.map_or(weights.len(), |last| last + 1));
    }
    weights
}

/// The token at `u` in [0, 1) of the cumulative weights.
fn draw(weights: &[(u32, f64)], u: f64) -> u32 {
    let mut left = u * weights.iter().map(|(_, w)| w).sum::<f64>();
    let chosen = weights.iter().find(|(_, w)| {
        left -= w;
        left < 0.0
    });
    chosen.or(weights.last()).map_or(0, |(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ip2p_pipeline::ids::CaptionId;
    use ip2p_pipeline::rng::Purpose;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_p: 1.0, frequency_penalty: 0.0 };

    fn stream() -> Stream {
        Stream::keyed(1, CaptionId::of("a").bytes(), 0, Purpose::Tokens)
    }

    fn shares(sampling: Sampling, logits: &[f32], counts: &HashMap<u32, u32>) -> Vec<f64> {
        let (mut rng, draws) = (stream(), 20_000);
        let mut seen = vec![0.0; logits.len()];
        for _ in 0..draws {
            seen[sampling.choose(logits, counts, &mut rng) as usize] += 1.0 / f64::from(draws);
        }
        seen
    }

    /// Softmax of (0, ln 2, ln 5) is (1/8, 2/8, 5/8).
    const LOGITS: [f32; 3] = [0.0, std::f32::consts::LN_2, 1.609_438];

    #[test]
    fn shares_follow_the_softmax() {
        for (share, expected) in shares(PLAIN, &LOGITS, &HashMap::new()).iter().zip([0.125, 0.25, 0.625]) {
            assert!((share - expected).abs() < 0.015, "{share} against {expected}");
        }
        let squared = shares(Sampling { temperature: 0.5, ..PLAIN }, &LOGITS, &HashMap::new());
        assert!((squared[2] - 25.0 / 30.0).abs() < 0.015, "{squared:?}");
    }

    #[test]
    fn top_p_drops_the_tail() {
        let shares = shares(Sampling { top_p: 0.8, ..PLAIN }, &LOGITS, &HashMap::new());
        assert_eq!(shares[0], 0.0);
        assert!((shares[2] - 5.0 / 7.0).abs() < 0.015, "{shares:?}");
    }

    #[test]
    fn frequency_penalty_counts_each_use() {
        let penalty = Sampling { temperature: 0.0, frequency_penalty: 0.5, ..PLAIN };
        let choose = |count| penalty.choose(&LOGITS, &HashMap::from([(2, count)]), &mut stream());
        assert_eq!((choose(1), choose(2)), (2, 1));
    }

    #[test]
    fn greedy_draws_nothing_and_prefers_the_smaller_id() {
        let mut rng = stream();
        let greedy = Sampling { temperature: 0.0, ..PLAIN };
        assert_eq!(greedy.choose(&[1.0, f32::NAN, 3.0, 3.0], &HashMap::new(), &mut rng), 2);
        assert_eq!(rng.next_u32(), stream().next_u32());
    }
}
