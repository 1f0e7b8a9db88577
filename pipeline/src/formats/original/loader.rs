//! What the original's own loader, `EditDataset` of `edit_dataset.py`, can read, and the arguments that it needs.
//!
//! It opens `{seed}_0.jpg` and `{seed}_1.jpg` and nothing else. It does not know how the data was split: it cuts `seeds.json`
//! by its own argument `splits`, after `assert sum(splits) == 1`, which many shares fail that do sum to 1 on paper. Only the first
//! two of `splits` decide where it cuts.

use crate::shard_plan::SplitName;
use crate::spec::{ImageFormat, Split};

/// The loader's default `splits`.
pub const DEFAULT_SPLITS: Split = Split { train: 0.9, val: 0.05, test: 0.05 };

/// Whether the loader opens files of this format.
pub fn reads(image: ImageFormat) -> bool {
    matches!(image, ImageFormat::Jpeg { .. })
}

/// Whether `assert sum(splits) == 1` passes: Python before 3.12 adds from left to right.
pub fn accepts(shares: &Split) -> bool {
    sum(shares) == 1.0
}

fn sum(shares: &Split) -> f64 {
    shares.train + shares.val + shares.test
}

/// Shares that cut at the same places and that the loader accepts: the last one is what the others leave.
pub fn accepted(shares: &Split) -> Split {
    if accepts(shares) { *shares } else { Split { test: 1.0 - (shares.train + shares.val), ..*shares } }
}

/// The arguments behind the path with which the loader finds the data set's `split`, as Python, for example
/// `split="train", splits=(0.8, 0.1, 0.1)`.
pub fn arguments(shares: &Split, split: SplitName) -> String {
    let name = match split {
        SplitName::Train => "train",
        SplitName::Validation => "val",
        SplitName::Test => "test",
    };
    match splits(shares) {
        Some(splits) => format!("split=\"{name}\", {splits}"),
        None => format!("split=\"{name}\""),
    }
}

/// The argument `splits` as Python, unless the default does.
pub fn splits(shares: &Split) -> Option<String> {
    let Split { train, val, test } = accepted(shares);
    (*shares != DEFAULT_SPLITS).then(|| format!("splits=({train:?}, {val:?}, {test:?})"))
}

/// What a person has to know who reads [`arguments`] or [`splits`]; `None` when they say it all.
pub fn remark(shares: &Split) -> Option<String> {
    let Split { train, val, test } = shares;
    (!accepts(shares)).then(|| {
        format!(
            "the shares {train:?}, {val:?} and {test:?} add up to {:?} in floating point, which the loader's `assert sum(splits) == 1` \
             refuses; in `splits` the last one is what the others leave, and the splits are the same",
            sum(shares)
        )
    })
}

/// Why the loader cannot read images of a format, and what to do; `None` when it can.
pub fn obstacle(image: ImageFormat) -> Option<String> {
    let extension = image.extension();
    (!reads(image)).then(|| {
        format!(
            "the original's loader (edit_dataset.EditDataset) reads JPEG only, and these images are .{extension}: make the data set \
             with stages.pairs.image=jpeg, or write .{extension} for .jpg in its edit_dataset.py"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(train: f64, val: f64, test: f64) -> Split {
        Split { train, val, test }
    }

    #[test]
    fn the_default_needs_no_argument_and_other_shares_do() {
        assert_eq!(arguments(&DEFAULT_SPLITS, SplitName::Train), r#"split="train""#);
        assert_eq!(arguments(&shares(0.0, 0.5, 0.5), SplitName::Validation), r#"split="val", splits=(0.0, 0.5, 0.5)"#);
        assert_eq!(remark(&shares(0.0, 0.5, 0.5)), None);
    }

    #[test]
    fn shares_that_do_not_quite_sum_to_one_are_completed() {
        let given = shares(0.7, 0.2, 0.1);
        assert_eq!(arguments(&given, SplitName::Test), r#"split="test", splits=(0.7, 0.2, 0.10000000000000009)"#);
        let said = remark(&given).unwrap();
        assert!(said.starts_with("the shares 0.7, 0.2 and 0.1 add up to 0.9999999999999999 in"), "{said}");
    }

    #[test]
    fn only_jpeg_is_read() {
        assert_eq!(obstacle(ImageFormat::Jpeg { quality: 90 }), None);
        assert!(obstacle(ImageFormat::Webp).unwrap().contains("reads JPEG only, and these images are .webp"));
    }

    proptest! {
        #[test]
        fn any_shares_become_acceptable(train in 0.0..=1.0f64, part in 0.0..=1.0f64) {
            let val = (1.0 - train) * part;
            let given = shares(train, val, 1.0 - train - val);
            prop_assert!(accepts(&accepted(&given)));
        }
    }
}
