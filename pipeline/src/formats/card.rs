//! The data set's own description: `README.md`, which Hugging Face reads as its card, and `stats.json`.
//!
//! Both are pure functions of [`DatasetCard`], which holds nothing of the machine or the time of the run.

use super::ShardStats;
use super::original::loader;
use crate::error::{Error, Result};
use crate::ids::Fingerprint;
use crate::manifest::Counts;
use crate::plan::{ModelFingerprints, Plan};
use crate::shard_plan::{SplitCount, SplitName};
use crate::spec::{ColumnProfile, Filter, ImageFormat, Range, Sampler, ShardFormat, Split};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Where the card lies in the data set.
pub const README_PATH: &str = "README.md";

/// Where the figures lie in the data set.
pub const STATS_PATH: &str = "stats.json";

/// Everything the card says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetCard {
    pub name: String,
    pub funnel: Funnel,
    /// Triplets and pairs of the three splits.
    pub splits: Vec<SplitCount>,
    /// Shares of the triplets that the splits were cut by.
    pub shares: Split,
    pub drawing: Drawing,
    pub filter: Filter,
    pub formats: Vec<ShardFormat>,
    pub columns: ColumnProfile,
    pub lineage: Lineage,
    /// Every file, or range of folders.
    pub files: Vec<ShardStats>,
}

/// What went into the two stages that can turn records away, and what came out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Funnel {
    /// Usable captions of the corpus.
    pub captions: u64,
    /// Completions asked for -> triplets.
    pub prompts: Counts,
    /// Candidates -> kept pairs.
    pub pairs: Counts,
}

/// How the pairs were drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drawing {
    /// Candidates per triplet.
    pub samples: u32,
    pub steps: u32,
    pub sampler: Sampler,
    pub p2p: Range,
    pub guidance: Range,
    /// Side of the images in pixels.
    pub resolution: u32,
    pub image: ImageFormat,
}

/// What the data was made from and with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The data set's identity: everything that can change a byte of it.
    pub fingerprint: Fingerprint,
    pub corpus: Fingerprint,
    pub models: ModelFingerprints,
    pub run_seed: u64,
    pub software: String,
}

impl DatasetCard {
    /// The card of a finished run. `files` may come in any order.
    pub fn new(plan: &Plan, funnel: Funnel, splits: &[SplitCount], mut files: Vec<ShardStats>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let (spec, pairs) = (&plan.spec, &plan.spec.stages.pairs);
        DatasetCard {
            name: spec.name.clone(),
            funnel,
            splits: splits.to_vec(),
            shares: spec.stages.shards.split,
            drawing: Drawing {
                samples: pairs.samples,
                steps: pairs.steps,
                sampler: pairs.sampler,
                p2p: pairs.p2p,
                guidance: pairs.guidance,
                resolution: pairs.resolution,
                image: pairs.image,
            },
            filter: spec.stages.filter.clone(),
            formats: spec.stages.shards.formats.clone(),
            columns: spec.stages.shards.columns,
            lineage: Lineage {
                fingerprint: plan.lineage,
                corpus: plan.corpus,
                models: plan.models.clone(),
                run_seed: spec.seed,
                software: format!("ip2p {}", env!("CARGO_PKG_VERSION")),
            },
            files,
        }
    }

    /// The text of `stats.json`: the card itself.
    pub fn stats_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(|e| Error::format(STATS_PATH, e))
    }

    /// The text of `README.md`.
    pub fn readme(&self) -> String {
        let pairs: u64 = self.splits.iter().map(|split| split.pairs).sum();
        let triplets: u64 = self.splits.iter().map(|split| split.triplets).sum();
        let mut page = self.front_matter(pairs);
        let _ = write!(
            page,
            "\n# {}\n\n{pairs} pairs of images from {triplets} edits, for training models that follow editing instructions, made as \
             in InstructPix2Pix: a language model wrote an edit for each caption, a diffusion model drew both captions as one scene \
             (Prompt-to-Prompt), and CLIP kept the pairs whose change agrees with the change of the text. All images are synthetic.\n",
            self.name
        );
        page += &self.splits_section();
        page += &self.loading_section(pairs);
        page += &self.fields_section();
        page += &self.funnel_section();
        page += &self.lineage_section();
        page
    }

    /// YAML for Hugging Face: which files are which split. One configuration, because all of a data set's
    /// configurations share one reader; the other formats are opened by name.
    fn front_matter(&self, pairs: u64) -> String {
        let size = match pairs {
            0..1_000 => "n<1K",
            1_000..10_000 => "1K<n<10K",
            10_000..100_000 => "10K<n<100K",
            100_000..1_000_000 => "100K<n<1M",
            _ => "1M<n<10M",
        };
        // A JSON string is a YAML string.
        let name = serde_json::Value::from(self.name.as_str());
        let mut yaml = format!("---\npretty_name: {name}\ntask_categories:\n- image-to-image\nsize_categories:\n- {size}\n");
        yaml += "tags:\n- instruct-pix2pix\n- image-editing\n- synthetic\n";
        let format = [ShardFormat::Parquet, ShardFormat::Webdataset].into_iter().find(|format| self.formats.contains(format));
        if let (Some(format), true) = (format, pairs > 0) {
            yaml += "configs:\n- config_name: default\n  data_files:\n";
            for split in self.filled_splits() {
                let _ = write!(yaml, "  - split: {}\n    path: {}\n", split.name(), files_of(format, split));
            }
        }
        yaml + "---\n"
    }

    fn filled_splits(&self) -> impl Iterator<Item = SplitName> {
        self.splits.iter().filter(|count| count.pairs > 0).map(|count| count.split)
    }

    fn splits_section(&self) -> String {
        let mut text = "\n## Splits\n\nNo edit is in two splits.\n\n| split | edits | pairs |\n|---|---|---|\n".to_string();
        for SplitCount { split, triplets, pairs } in &self.splits {
            let _ = writeln!(text, "| {} | {triplets} | {pairs} |", split.name());
        }
        text
    }

    fn loading_section(&self, pairs: u64) -> String {
        if pairs == 0 {
            return EMPTY.to_string();
        }
        let mut text = "\n## How to load it\n\nAll formats hold the same pairs; write the path of this folder for `DATASET`.\n".to_string();
        // A split without pairs has no files.
        let split = self.filled_splits().next().unwrap_or(SplitName::Train);
        for format in &self.formats {
            text += &match format {
                ShardFormat::Parquet => PARQUET_LOADING.replace("{split}", split.name()),
                ShardFormat::Webdataset => {
                    WEBDATASET_LOADING.replace("{split}", split.name()).replace("{jpg}", self.drawing.image.extension())
                }
                ShardFormat::Original => self.original_loading(split),
            };
        }
        text
    }

    fn original_loading(&self, split: SplitName) -> String {
        let (image, shares) = (self.drawing.image, &self.shares);
        let mut text = ORIGINAL_LOADING.replace("{jpg}", image.extension());
        match loader::obstacle(image) {
            None => text += &EDIT_DATASET.replace("{arguments}", &loader::arguments(shares, split)),
            Some(why) => {
                let _ = writeln!(text, "\n{}.", capitalised(&why));
                if let Some(splits) = loader::splits(shares) {
                    let _ = writeln!(text, "It cuts `seeds.json` by position: `{splits}` gives the splits above.");
                }
            }
        }
        if let Some(remark) = loader::remark(shares) {
            let _ = writeln!(text, "\n{}.", capitalised(&remark));
        }
        text
    }

    fn fields_section(&self) -> String {
        let first = match self.columns {
            ColumnProfile::Timbrooks => "original_image",
            ColumnProfile::Diffusers => "input_image",
        };
        format!(
            "\n## Fields\n\n| field | meaning |\n|---|---|\n| `{first}`, `edited_image` | the image before and after the edit |\n{FIELDS}"
        )
    }

    fn funnel_section(&self) -> String {
        let Funnel { captions, prompts, pairs } = &self.funnel;
        let mut text = "\n## How many were kept\n\n| step | count |\n|---|---|\n".to_string();
        let _ = writeln!(text, "| captions | {captions} |\n| completions asked for | {} |", prompts.expected);
        text += &turned_away(prompts);
        let _ = writeln!(text, "| triplets | {} |\n| candidate pairs drawn | {} |", prompts.output, pairs.expected);
        text += &turned_away(pairs);
        let _ = writeln!(text, "| **pairs kept** | **{}** |", pairs.output);
        let Filter { clip_text, clip_direction, clip_image, keep } = self.filter;
        let _ = write!(
            text,
            "\nA candidate passed with `clip_sim_0` and `clip_sim_1` of at least {clip_text}, `clip_sim_dir` of at least {clip_direction} \
             and `clip_sim_image` of at least {clip_image}. Of those that passed, the {keep} with the largest `clip_sim_dir` were kept \
             per edit.\n"
        );
        text
    }

    fn lineage_section(&self) -> String {
        let Drawing { samples, steps, sampler, p2p, guidance, resolution, .. } = &self.drawing;
        let sampler = match sampler {
            Sampler::EulerAncestral => "Euler ancestral",
            Sampler::Dpmpp2m => "DPM-Solver++ (2M)",
        };
        let Lineage { fingerprint, corpus, models, run_seed, software } = &self.lineage;
        let mut text = format!(
            "\n## How it was made\n\n{samples} candidates per edit at {resolution}x{resolution} pixels, {sampler} with {steps} steps, \
             Prompt-to-Prompt threshold drawn from {} to {}, guidance scale from {} to {}, run seed {run_seed}.\n\n\
             | | fingerprint |\n|---|---|\n| data set | `{fingerprint}` |\n| corpus | `{corpus}` |\n| diffusion model | `{}` |\n",
            p2p.min, p2p.max, guidance.min, guidance.max, models.diffusion
        );
        let others = [("separate VAE", models.vae), ("CLIP", Some(models.clip)), ("language model", models.llm)];
        for (role, model) in others {
            if let Some(model) = model {
                let _ = writeln!(text, "| {role} | `{model}` |");
            }
        }
        let _ = write!(text, "\nMade with {software}. `{STATS_PATH}` has these figures and the size and BLAKE3 of every file.\n");
        text
    }
}

fn capitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Rows of the funnel for what a stage did not pass on.
fn turned_away(counts: &Counts) -> String {
    let reasons = counts.rejected.iter().map(|(reason, n)| format!("| - rejected: {} | {n} |\n", reason.replace('_', " ")));
    let quarantined = (counts.quarantined > 0).then(|| format!("| - could not be processed | {} |\n", counts.quarantined));
    reasons.chain(quarantined).collect()
}

/// The pattern of a split's files.
fn files_of(format: ShardFormat, split: SplitName) -> String {
    match format {
        ShardFormat::Parquet => format!("data/{}-*.parquet", split.name()),
        ShardFormat::Webdataset | ShardFormat::Original => format!("{}/{}-*.tar", format.name(), split.name()),
    }
}

const EMPTY: &str = "
## There is nothing to load

**This data set is empty**: no candidate was kept. It has no shards, and no reader can open it. The section on how many were
kept says what turned them away.
";

const PARQUET_LOADING: &str = r#"
Parquet (`data/`):

```python
from datasets import load_dataset
pairs = load_dataset("DATASET", split="{split}")  # image columns decode to PIL images
```
"#;

const WEBDATASET_LOADING: &str = r#"
WebDataset (`webdataset/`), to stream:

```python
import glob, webdataset
pairs = webdataset.WebDataset(sorted(glob.glob("DATASET/webdataset/{split}-*.tar")), shardshuffle=False).decode("pil")
# keys: original_image.{jpg}, edited_image.{jpg}, edit_prompt.txt, json
```
"#;

const ORIGINAL_LOADING: &str = r#"
The layout of timothybrooks/instruct-pix2pix (`original/`): `seeds.json` lists each folder with the seeds of its pairs, and a
folder holds `prompt.json`, `metadata.jsonl`, `{seed}_0.{jpg}` (before) and `{seed}_1.{jpg}` (after).
"#;

const EDIT_DATASET: &str = r#"
```python
from edit_dataset import EditDataset
pairs = EditDataset("DATASET/original", {arguments})
```

It cuts `seeds.json` by position: these arguments, which can also stand in its training configuration, give the splits above.
"#;

const FIELDS: &str = "| `edit_prompt` | the instruction |
| `original_prompt`, `edited_prompt` | the captions that the two images were drawn from |
| `pair_id`, `triplet_id` | content hashes; pairs of one edit share the second |
| `seed` | number of the pair, its file name in the original layout |
| `p2p_threshold` | share of the steps in which both images shared their self-attention |
| `cfg_scale` | classifier-free guidance scale |
| `clip_sim_0`, `clip_sim_1` | CLIP similarity of each image with its caption |
| `clip_sim_dir` | CLIP similarity of the change of the image with the change of the caption |
| `clip_sim_image` | CLIP similarity of the two images |
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn card(formats: &[ShardFormat]) -> DatasetCard {
        let count = |split, triplets, pairs| SplitCount { split, triplets, pairs };
        let counts = |expected, output, reason: &str, n, quarantined| Counts {
            expected,
            output,
            rejected: BTreeMap::from([(reason.to_string(), n)]),
            quarantined,
        };
        DatasetCard {
            name: "a \"small\" set: 1".to_string(),
            funnel: Funnel {
                captions: 40,
                prompts: counts(40, 36, "same_caption", 4, 0),
                pairs: counts(360, 80, "text_similarity", 278, 2),
            },
            splits: vec![count(SplitName::Train, 33, 78), count(SplitName::Validation, 0, 0), count(SplitName::Test, 1, 2)],
            shares: SHARES,
            drawing: Drawing {
                samples: 10,
                steps: 25,
                sampler: Sampler::EulerAncestral,
                p2p: Range { min: 0.1, max: 0.9 },
                guidance: Range { min: 7.5, max: 15.0 },
                resolution: 64,
                image: ImageFormat::Webp,
            },
            filter: Filter { clip_text: 0.2, clip_direction: 0.2, clip_image: 0.7, keep: 4 },
            formats: formats.to_vec(),
            columns: ColumnProfile::Timbrooks,
            lineage: Lineage {
                fingerprint: Fingerprint::of(&["d"]),
                corpus: Fingerprint::of(&["c"]),
                models: ModelFingerprints { diffusion: Fingerprint::of(&["m"]), vae: None, clip: Fingerprint::of(&["k"]), llm: None },
                run_seed: 42,
                software: "ip2p 0.1.0".to_string(),
            },
            files: Vec::new(),
        }
    }

    /// Split and path of each entry of the card's YAML.
    fn data_files(readme: &str) -> Vec<(&str, &str)> {
        let yaml = readme.strip_prefix("---\n").unwrap().split("\n---\n").next().unwrap();
        assert!(yaml.starts_with("pretty_name: \"a \\\"small\\\" set: 1\"\n"), "{yaml}");
        let values = |key| yaml.lines().filter_map(move |line| line.trim_start().strip_prefix(key));
        values("- split: ").zip(values("path: ")).collect()
    }

    #[test]
    fn the_front_matter_names_the_files_of_the_splits_that_have_any() {
        let all = [ShardFormat::Webdataset, ShardFormat::Parquet, ShardFormat::Original];
        let parquet = [("train", "data/train-*.parquet"), ("test", "data/test-*.parquet")];
        assert_eq!(data_files(&card(&all).readme()), parquet);
        let tars = [("train", "webdataset/train-*.tar"), ("test", "webdataset/test-*.tar")];
        assert_eq!(data_files(&card(&[ShardFormat::Webdataset]).readme()), tars);
        assert!(data_files(&card(&[ShardFormat::Original]).readme()).is_empty());
    }

    #[test]
    fn the_page_of_an_empty_set_says_so_and_names_no_file() {
        let mut card = card(&[ShardFormat::Webdataset, ShardFormat::Parquet, ShardFormat::Original]);
        card.splits.iter_mut().for_each(|split| (split.triplets, split.pairs) = (0, 0));
        let page = card.readme();
        assert!(page.contains("**This data set is empty**") && page.contains("| - rejected: text similarity | 278 |"), "{page}");
        assert!(!page.contains("load_dataset") && !page.contains("WebDataset(") && data_files(&page).is_empty(), "{page}");
    }

    #[test]
    fn the_page_has_the_funnel_and_only_the_formats_there_are() {
        let page = card(&[ShardFormat::Parquet]).readme();
        for line in [
            "| captions | 40 |",
            "| - rejected: text similarity | 278 |",
            "| - could not be processed | 2 |",
            "| **pairs kept** | **80** |",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
        assert!(page.contains("load_dataset(") && !page.contains("webdataset.WebDataset") && !page.contains("seeds.json"));
    }

    #[test]
    fn file_names_follow_the_image_format() {
        let page = card(&[ShardFormat::Webdataset, ShardFormat::Original]).readme();
        assert!(page.contains("original_image.webp") && page.contains("{seed}_0.webp"), "{page}");
        let jpeg = jpeg_card(SHARES).readme();
        assert!(jpeg.contains("{seed}_0.jpg") && !jpeg.contains("webp"), "{jpeg}");
    }

    const SHARES: Split = Split { train: 0.9, val: 0.05, test: 0.05 };

    fn jpeg_card(shares: Split) -> DatasetCard {
        let mut card = card(&[ShardFormat::Original]);
        card.drawing.image = ImageFormat::Jpeg { quality: 100 };
        DatasetCard { shares, ..card }
    }

    #[test]
    fn the_original_loader_gets_arguments_that_work_or_none() {
        let page = jpeg_card(SHARES).readme();
        assert!(page.contains("EditDataset(\"DATASET/original\", split=\"train\")\n"), "{page}");
        let page = jpeg_card(Split { train: 0.7, val: 0.2, test: 0.1 }).readme();
        assert!(page.contains("split=\"train\", splits=(0.7, 0.2, 0.10000000000000009))\n"), "{page}");
        assert!(page.contains("\nThe shares 0.7, 0.2 and 0.1 add up to 0.9999999999999999"), "{page}");
        let mut webp = card(&[ShardFormat::Original]);
        webp.shares = Split { train: 0.5, val: 0.25, test: 0.25 };
        let page = webp.readme();
        assert!(
            page.contains("reads JPEG only") && page.contains("`splits=(0.5, 0.25, 0.25)`") && !page.contains("EditDataset("),
            "{page}"
        );
    }

    #[test]
    fn the_page_loads_a_split_that_is_there() {
        let mut card = jpeg_card(Split { train: 0.0, val: 0.5, test: 0.5 });
        card.formats = vec![ShardFormat::Webdataset, ShardFormat::Parquet, ShardFormat::Original];
        card.splits[0].pairs = 0;
        card.splits[1].pairs = 3;
        let page = card.readme();
        for part in ["split=\"validation\")", "webdataset/validation-*.tar", "split=\"val\", splits=(0.0, 0.5, 0.5))"] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains("\"train\"") && !page.contains("train-*"), "{page}");
    }

    #[test]
    fn the_stats_read_back() {
        let card = card(&[ShardFormat::Parquet]);
        let text = card.stats_json().unwrap();
        assert_eq!(serde_json::from_str::<DatasetCard>(&text).unwrap(), card);
    }
}
