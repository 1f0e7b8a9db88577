//! The exact rules that the worker owns: steps with Prompt-to-Prompt, sizes of edited pictures.

use ip2p_worker::diffusion::{edit, p2p};
use serde::Deserialize;

use super::support::{case, json};

#[test]
fn golden_p2p_steps() {
    #[derive(Deserialize)]
    struct File {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        steps: usize,
        threshold: f64,
        on_steps: usize,
    }
    let Some(folder) = case("selection") else { return };
    let file: File = json(&folder.join("p2p_steps.json"));
    assert!(!file.cases.is_empty());
    for Case { steps, threshold, on_steps } in file.cases {
        let on = (0..steps).filter(|&step| p2p::shares(threshold, step, steps)).count();
        assert_eq!(on, on_steps, "threshold {threshold}, {steps} steps");
    }
}

#[test]
fn golden_edit_sizes() {
    #[derive(Deserialize)]
    struct Case {
        width: u32,
        height: u32,
        resolution: u32,
        out_width: u32,
        out_height: u32,
    }
    let Some(folder) = case("selection") else { return };
    let cases: Vec<Case> = json(&folder.join("edit_sizes.json"));
    assert!(!cases.is_empty());
    for Case { width, height, resolution, out_width, out_height } in cases {
        assert_eq!(edit::size(width, height, resolution), (out_width, out_height), "{width}x{height} at {resolution}");
    }
}
