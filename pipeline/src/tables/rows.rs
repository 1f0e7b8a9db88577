//! The schema of each record type.

use super::Table;
use super::columns::{Columns, Rows};
use crate::error::Result;
use crate::ids::TripletId;
use crate::records::{
    Candidate, CorpusRecord, Edit, ImageRef, IndexRow, Quarantined, RejectReason, RejectedCompletion, ScoredCandidate, Scores, ShardRow,
    Triplet, Verdict,
};

/// An owned copy of an optional cell.
fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_string)
}

impl Table for CorpusRecord {
    const NAME: &'static str = "table of captions";

    fn columns(rows: &[Self]) -> Columns {
        Columns::default()
            .text("caption", rows.iter().map(|r| &r.caption))
            .optional_text("url", rows.iter().map(|r| r.url.as_ref()))
            .optional_text("edit", rows.iter().map(|r| r.edit.as_ref().map(|e| &e.edit)))
            .optional_text("output", rows.iter().map(|r| r.edit.as_ref().map(|e| &e.output)))
    }

    fn rows(batch: &Rows<'_>) -> Result<Vec<Self>> {
        let (caption, url) = (batch.text("caption")?, batch.optional_text("url")?);
        let (edit, output) = (batch.optional_text("edit")?, batch.optional_text("output")?);
        let row = |i: usize| CorpusRecord {
            caption: caption.value(i).to_string(),
            url: owned(url[i]),
            edit: owned(edit[i]).zip(owned(output[i])).map(|(edit, output)| Edit { edit, output }),
        };
        Ok((0..batch.len()).map(row).collect())
    }
}

impl Table for Triplet {
    const NAME: &'static str = "table of triplets";

    fn columns(rows: &[Self]) -> Columns {
        Columns::default()
            .text("triplet_id", rows.iter().map(|r| r.id.to_string()))
            .text("caption", rows.iter().map(|r| &r.caption))
            .text("edit", rows.iter().map(|r| &r.edit))
            .text("output", rows.iter().map(|r| &r.output))
            .optional_text("url", rows.iter().map(|r| r.url.as_ref()))
    }

    fn rows(batch: &Rows<'_>) -> Result<Vec<Self>> {
        let ids = batch.ids::<TripletId>("triplet_id")?;
        let (caption, edit, output) = (batch.text("caption")?, batch.text("edit")?, batch.text("output")?);
        let url = batch.optional_text("url")?;
        let row = |(i, id)| Triplet {
            id,
            caption: caption.value(i).to_string(),
            edit: edit.value(i).to_string(),
            output: output.value(i).to_string(),
            url: owned(url[i]),
        };
        Ok(ids.into_iter().enumerate().map(row).collect())
    }
}

impl Table for RejectedCompletion {
    const NAME: &'static str = "table of rejected completions";

    fn columns(rows: &[Self]) -> Columns {
        Columns::default()
            .text("caption_id", rows.iter().map(|r| r.caption_id.to_string()))
            .text("caption", rows.iter().map(|r| &r.caption))
            .u32("number", rows.iter().map(|r| r.number))
            .text("reason", rows.iter().map(|r| &r.reason))
            .text("completion", rows.iter().map(|r| &r.completion))
    }

    fn rows(batch: &Rows<'_>) -> Result<Vec<Self>> {
        let ids = batch.ids("caption_id")?;
        let (caption, reason, completion) = (batch.text("caption")?, batch.text("reason")?, batch.text("completion")?);
        let number = batch.u32("number")?;
        let row = |(i, caption_id)| RejectedCompletion {
            caption_id,
            caption: caption.value(i).to_string(),
            number: number.value(i),
            reason: reason.value(i).to_string(),
            completion: completion.value(i).to_string(),
        };
        Ok(ids.into_iter().enumerate().map(row).collect())
    }
}

impl Table for Quarantined {
    const NAME: &'static str = "table of quarantined records";

    fn columns(rows: &[Self]) -> Columns {
        Columns::default().text("record", rows.iter().map(|r| &r.record)).text("error", rows.iter().map(|r| &r.error))
    }

    fn rows(batch: &Rows<'_>) -> Result<Vec<Self>> {
        let (record, error) = (batch.text("record")?, batch.text("error")?);
        let row = |i| Quarantined { record: record.value(i).to_string(), error: error.value(i).to_string() };
        Ok((0..batch.len()).map(row).collect())
    }
}

impl Table for ScoredCandidate {
    const NAME: &'static str = "table of scored candidates";

    fn columns(rows: &[Self]) -> Columns {
        let columns = candidate_columns(Columns::default(), rows.iter().map(|r| &r.candidate));
        let columns = score_columns(columns, rows.iter().map(|r| r.scores.as_ref()));
        let columns = columns.optional_text("error", rows.iter().map(|r| r.error.as_ref()));
        image_columns(columns, rows.iter().map(|r| r.images.as_ref()))
    }

    fn rows(batch: &Rows<'_>) -> Result<Vec<Self>> {
        let (scores, error, images) = (read_scores(batch)?, batch.optional_text("error")?, read_images(batch)?);
        let parts = read_candidates(batch)?.into_iter().zip(scores).zip(error).zip(images);
        Ok(parts.map(|(((candidate, scores), error), images)| ScoredCandidate { candidate, scores, error: owned(error), images }).collect())
    }
}

impl Table for IndexRow {
    const NAME: &'static str = "index";

    fn columns(rows: &[Self]) -> Columns {
        let columns = Columns::default()
            .text("pair_id", rows.iter().map(|r| r.pair.to_string()))
            .text("caption", rows.iter().map(|r| &r.caption))
            .text("edit", rows.iter().map(|r| &r.edit))
            .text("output", rows.iter().map(|r| &r.output))
            .optional_text("url", rows.iter().map(|r| r.url.as_ref()));
        let columns = candidate_columns(columns, rows.iter().map(|r| &r.candidate));
        let columns = score_columns(columns, rows.iter().map(|r| r.scores.as_ref()))
            .text("status", rows.iter().map(|r| status(&r.verdict)))
            .optional_text("reason", rows.iter().map(|r| reason(&r.verdict)));
        image_columns(columns, rows.iter().map(|r| r.images.as_ref()))
    }

    fn rows(batch: &Rows<'_>) -> Result<Vec<Self>> {
        let ids = batch.ids("pair_id")?;
        let (caption, edit, output) = (batch.text("caption")?, batch.text("edit")?, batch.text("output")?);
        let url = batch.optional_text("url")?;
        let (scores, verdicts, images) = (read_scores(batch)?, read_verdicts(batch)?, read_images(batch)?);
        let parts = ids.into_iter().zip(read_candidates(batch)?).zip(scores).zip(verdicts).zip(images);
        let row = |(i, ((((pair, candidate), scores), verdict), images))| IndexRow {
            pair,
            caption: caption.value(i).to_string(),
            edit: edit.value(i).to_string(),
            output: output.value(i).to_string(),
            url: owned(url[i]),
            candidate,
            scores,
            verdict,
            images,
        };
        Ok(parts.enumerate().map(row).collect())
    }
}

impl Table for ShardRow {
    const NAME: &'static str = "Parquet shard";

    fn columns(rows: &[Self]) -> Columns {
        Columns::default()
            .text("pair_id", rows.iter().map(|r| r.pair_id.to_string()))
            .text("original_prompt", rows.iter().map(|r| &r.original_prompt))
            .text("edit_prompt", rows.iter().map(|r| &r.edit_prompt))
            .text("edited_prompt", rows.iter().map(|r| &r.edited_prompt))
            .f64("p2p_threshold", rows.iter().map(|r| r.p2p_threshold))
            .f64("cfg_scale", rows.iter().map(|r| r.cfg_scale))
            .f64("clip_sim_0", rows.iter().map(|r| r.clip_sim_0))
            .f64("clip_sim_1", rows.iter().map(|r| r.clip_sim_1))
            .f64("clip_sim_dir", rows.iter().map(|r| r.clip_sim_dir))
            .f64("clip_sim_image", rows.iter().map(|r| r.clip_sim_image))
    }

    fn rows(batch: &Rows<'_>) -> Result<Vec<Self>> {
        let ids = batch.ids("pair_id")?;
        let (original, edit, edited) = (batch.text("original_prompt")?, batch.text("edit_prompt")?, batch.text("edited_prompt")?);
        let (p2p, cfg) = (batch.f64("p2p_threshold")?, batch.f64("cfg_scale")?);
        let (sim_0, sim_1) = (batch.f64("clip_sim_0")?, batch.f64("clip_sim_1")?);
        let (direction, image) = (batch.f64("clip_sim_dir")?, batch.f64("clip_sim_image")?);
        let row = |(i, pair_id)| ShardRow {
            pair_id,
            original_prompt: original.value(i).to_string(),
            edit_prompt: edit.value(i).to_string(),
            edited_prompt: edited.value(i).to_string(),
            p2p_threshold: p2p.value(i),
            cfg_scale: cfg.value(i),
            clip_sim_0: sim_0.value(i),
            clip_sim_1: sim_1.value(i),
            clip_sim_dir: direction.value(i),
            clip_sim_image: image.value(i),
        };
        Ok(ids.into_iter().enumerate().map(row).collect())
    }
}

fn candidate_columns<'a>(columns: Columns, rows: impl Iterator<Item = &'a Candidate> + Clone) -> Columns {
    columns
        .text("triplet_id", rows.clone().map(|c| c.triplet.to_string()))
        .u32("sample", rows.clone().map(|c| c.sample))
        .u64("seed", rows.clone().map(|c| c.seed))
        .f64("p2p_threshold", rows.clone().map(|c| c.p2p_threshold))
        .f64("cfg_scale", rows.map(|c| c.cfg_scale))
}

fn read_candidates(batch: &Rows<'_>) -> Result<Vec<Candidate>> {
    let (sample, seed) = (batch.u32("sample")?, batch.u64("seed")?);
    let (p2p, cfg) = (batch.f64("p2p_threshold")?, batch.f64("cfg_scale")?);
    let row = |(i, triplet)| Candidate {
        triplet,
        sample: sample.value(i),
        seed: seed.value(i),
        p2p_threshold: p2p.value(i),
        cfg_scale: cfg.value(i),
    };
    Ok(batch.ids("triplet_id")?.into_iter().enumerate().map(row).collect())
}

fn score_columns<'a>(columns: Columns, rows: impl Iterator<Item = Option<&'a Scores>> + Clone) -> Columns {
    columns
        .optional_f64("clip_sim_0", rows.clone().map(|s| s.map(|s| s.clip_sim_0)))
        .optional_f64("clip_sim_1", rows.clone().map(|s| s.map(|s| s.clip_sim_1)))
        .optional_f64("clip_sim_dir", rows.clone().map(|s| s.map(|s| s.clip_sim_dir)))
        .optional_f64("clip_sim_image", rows.map(|s| s.map(|s| s.clip_sim_image)))
}

/// All four scores or none.
fn read_scores(batch: &Rows<'_>) -> Result<Vec<Option<Scores>>> {
    let (sim_0, sim_1) = (batch.optional_f64("clip_sim_0")?, batch.optional_f64("clip_sim_1")?);
    let (direction, image) = (batch.optional_f64("clip_sim_dir")?, batch.optional_f64("clip_sim_image")?);
    let row = |i: usize| match (sim_0[i], sim_1[i], direction[i], image[i]) {
        (Some(clip_sim_0), Some(clip_sim_1), Some(clip_sim_dir), Some(clip_sim_image)) => {
            Ok(Some(Scores { clip_sim_0, clip_sim_1, clip_sim_dir, clip_sim_image }))
        }
        (None, None, None, None) => Ok(None),
        _ => Err(batch.error(format!("row {i} of a batch has some of the four clip_sim scores, but not all"))),
    };
    (0..batch.len()).map(row).collect()
}

const IMAGE_COLUMNS: [[&str; 4]; 2] = [
    ["image_0_object", "image_0_offset", "image_0_length", "image_0_checksum"],
    ["image_1_object", "image_1_offset", "image_1_length", "image_1_checksum"],
];

fn image_columns<'a>(columns: Columns, rows: impl Iterator<Item = Option<&'a [ImageRef; 2]>> + Clone) -> Columns {
    let of = |which: usize| rows.clone().map(move |images| images.map(|images| &images[which]));
    let add = |columns: Columns, (which, [object, offset, length, checksum]): (usize, [&str; 4])| {
        columns
            .optional_text(object, of(which).map(|image| image.map(|image| &image.object)))
            .optional_u64(offset, of(which).map(|image| image.map(|image| image.offset)))
            .optional_u64(length, of(which).map(|image| image.map(|image| image.length)))
            .optional_u64(checksum, of(which).map(|image| image.map(|image| image.checksum)))
    };
    IMAGE_COLUMNS.into_iter().enumerate().fold(columns, add)
}

fn read_images(batch: &Rows<'_>) -> Result<Vec<Option<[ImageRef; 2]>>> {
    let [first, second] = IMAGE_COLUMNS.map(|names| read_image(batch, names));
    let both = |(i, pair)| match pair {
        (Some(first), Some(second)) => Ok(Some([first, second])),
        (None, None) => Ok(None),
        _ => Err(batch.error(format!("row {i} of a batch has one image of the pair, but not the other"))),
    };
    first?.into_iter().zip(second?).enumerate().map(both).collect()
}

fn read_image(batch: &Rows<'_>, names: [&str; 4]) -> Result<Vec<Option<ImageRef>>> {
    let [object, offset, length, checksum] = names;
    let (offsets, lengths, checksums) = (batch.optional_u64(offset)?, batch.optional_u64(length)?, batch.optional_u64(checksum)?);
    let row = |(i, found): (usize, Option<&str>)| match (found, offsets[i], lengths[i], checksums[i]) {
        (Some(object), Some(offset), Some(length), Some(checksum)) => {
            Ok(Some(ImageRef { object: object.to_string(), offset, length, checksum }))
        }
        (None, None, None, None) => Ok(None),
        _ => Err(batch.error(format!("row {i} of a batch has some of `{}`, but not all", names.join("`, `")))),
    };
    batch.optional_text(object)?.into_iter().enumerate().map(row).collect()
}

/// The word of a verdict in the column `status`.
fn status(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Kept => "kept",
        Verdict::Rejected(_) => "rejected",
        Verdict::Quarantined(_) => "quarantined",
    }
}

/// The column `reason`: the rule that failed, or the error.
fn reason(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Kept => None,
        Verdict::Rejected(reason) => Some(reason.name()),
        Verdict::Quarantined(error) => Some(error),
    }
}

fn read_verdicts(batch: &Rows<'_>) -> Result<Vec<Verdict>> {
    let row = |(status, reason): (Option<&str>, Option<&str>)| match (status, reason) {
        (Some("kept"), None) => Ok(Verdict::Kept),
        (Some("quarantined"), Some(error)) => Ok(Verdict::Quarantined(error.to_string())),
        (Some("rejected"), Some(name)) => RejectReason::ALL
            .into_iter()
            .find(|reason| reason.name() == name)
            .map(Verdict::Rejected)
            .ok_or_else(|| batch.error(format!("`{name}` is not a reason to reject"))),
        _ => Err(batch.error(format!("status {status:?} with reason {reason:?} is not a verdict"))),
    };
    batch.text("status")?.iter().zip(batch.optional_text("reason")?).map(row).collect()
}
