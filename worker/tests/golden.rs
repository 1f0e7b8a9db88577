//! Conformance with reference results of the original programs.
//!
//! The reference folder is `tests/golden` of the repository, or what `IP2P_GOLDEN` names: any folder of the same form
//! works, since every case is driven by its own configuration files and tensor shapes. A case whose folder is absent is
//! skipped by name. Tolerances are those that the reference's README recommends for fp32 on a CPU.

#![expect(clippy::print_stdout, reason = "measured differences are for whoever runs these with --nocapture")]

#[path = "golden/support.rs"]
mod support;

#[path = "golden/clip.rs"]
mod clip;

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

#[path = "golden/unet.rs"]
mod unet;

#[path = "golden/vae.rs"]
mod vae;

/// A folder without a single case would otherwise pass.
#[test]
fn golden_folder_has_cases() {
    let cases = ["unet_p2p", "sampler", "vae", "clip", "edit", "pipeline", "selection"];
    let present = cases.iter().filter(|case| support::case(case).is_some()).count();
    assert!(present > 0, "no case of {cases:?} in {}", support::root().display());
}
