//! When Prompt-to-Prompt is on.

/// True when the second image of a pair uses the first's self-attention maps in step `step` (from 0) of `steps`.
///
/// The original's rule: threshold > step / (steps - 1). With one step the original divides by zero; here its only step
/// counts as the first of many, so any threshold above 0 shares.
pub fn shares(threshold: f64, step: usize, steps: usize) -> bool {
    let last = steps.saturating_sub(1).max(1);
    threshold > step as f64 / last as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharing_is_a_prefix_of_the_steps() {
        for steps in [1, 2, 25, 100] {
            for threshold in [0.0, 0.1, 0.5, 0.9, 1.0] {
                let on: Vec<bool> = (0..steps).map(|i| shares(threshold, i, steps)).collect();
                assert!(on.windows(2).all(|w| w[0] >= w[1]), "{on:?}");
                assert_eq!(on[0], threshold > 0.0);
            }
        }
    }
}
