//! Conformance with reference results of the original programs.
//!
//! The reference folder is `tests/golden` of the repository, or what `IP2P_GOLDEN` names: any folder of the same form
//! works, since every case is driven by its own configuration files and tensor shapes. A case that is absent is skipped by
//! name. Tolerances are those that the reference's README recommends for fp32 on a CPU.

#![expect(clippy::print_stdout, reason = "measured differences are for whoever runs these with --nocapture")]

#[path = "golden/place.rs"]
mod place;

#[path = "golden/support.rs"]
mod support;

#[path = "golden/clip.rs"]
mod clip;

#[path = "golden/dataset.rs"]
mod dataset;

#[path = "golden/edit.rs"]
mod edit;

#[path = "golden/mt19937.rs"]
mod mt19937;

#[path = "golden/pipeline.rs"]
mod pipeline;

#[path = "golden/sampler.rs"]
mod sampler;

#[path = "golden/selection.rs"]
mod selection;

#[path = "golden/texts.rs"]
mod texts;

#[path = "golden/unet.rs"]
mod unet;

#[path = "golden/vae.rs"]
mod vae;

/// What makes a case: names in its folder that start so.
const CASES: [(&str, &[&str]); 7] = [
    ("unet_p2p", &["io"]),
    ("sampler", &["schedule.", "run"]),
    ("vae", &["io", "to_u8."]),
    ("clip", &["tokens.", "preprocess.", "sd_text_encoder.", "similarity."]),
    ("edit", &["io"]),
    ("pipeline", &["samples.", "dataset"]),
    (
        "selection",
        &[
            "filter.",
            "partitions.",
            "caption_permutation.",
            "completions.",
            "prepare_for_gpt.",
            "text_resume.",
            "seeds.",
            "splits.",
            "rng_chain.",
            "p2p_steps.",
            "edit_sizes.",
        ],
    ),
];

/// A folder without a single case would otherwise pass.
#[test]
fn golden_folder_has_cases() {
    let root = place::root();
    let there = |(case, starts): &(&str, &[&str])| {
        let folder = root.join(case);
        folder.is_dir() && starts.iter().any(|start| !place::files(&folder, start, "").is_empty())
    };
    assert!(CASES.iter().any(there), "nothing to run: none of {CASES:?} is in {}", root.display());
}
