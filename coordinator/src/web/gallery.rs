//! Which pairs the gallery shows.

use super::tables::Tables;
use ip2p_pipeline::Result;
use ip2p_pipeline::ids::TripletId;
use ip2p_pipeline::records::{IndexRow, RejectReason, Verdict};
use ip2p_pipeline::shard_plan::SplitName;
use std::collections::{BTreeMap, HashMap};

/// Pairs on a page.
const PAGE: usize = 24;
/// Most partitions and rows that one request looks at.
const PARTITIONS: usize = 60;
const ROWS: usize = 100_000;
/// Longest search text in characters.
const TEXT: usize = 200;

/// What to show.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Rejected candidates instead of kept pairs.
    pub rejected: bool,
    /// Only those that were rejected for this reason.
    pub reason: Option<RejectReason>,
    /// Words that caption, instruction or edited caption must hold.
    pub text: String,
    /// Least clip_sim_dir and clip_sim_image.
    pub direction: Option<f64>,
    pub image: Option<f64>,
    pub split: Option<SplitName>,
    /// Partition and row to go on behind.
    pub after: Option<(u32, usize)>,
}

/// A pair and where it stands.
#[derive(Clone, Debug)]
pub struct Card {
    pub partition: u32,
    pub number: usize,
    pub row: IndexRow,
    pub split: Option<SplitName>,
}

/// A page of the gallery.
#[derive(Debug, Default)]
pub struct Found {
    pub cards: Vec<Card>,
    /// Where the next page goes on; `None` when there is nothing more.
    pub next: Option<(u32, usize)>,
    /// Partitions there are, and how many were looked at.
    pub partitions: usize,
    pub looked: usize,
    /// Splits are known.
    pub splits: bool,
}

impl Query {
    /// Reads a form's fields; what makes no sense is left out.
    pub fn of(fields: &BTreeMap<String, String>) -> Self {
        let field = |name: &str| fields.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let number = |name: &str| field(name)?.parse().ok().filter(|n: &f64| n.is_finite());
        let after = || field("after")?.split_once('.').and_then(|(partition, row)| Some((partition.parse().ok()?, row.parse().ok()?)));
        Query {
            rejected: field("show") == Some("rejected"),
            reason: RejectReason::ALL.into_iter().find(|reason| Some(reason.name()) == field("reason")),
            text: field("text").unwrap_or_default().chars().take(TEXT).collect(),
            direction: number("direction"),
            image: number("image"),
            split: SplitName::ALL.into_iter().find(|split| Some(split.name()) == field("split")),
            after: after(),
        }
    }

    /// The fields of a page behind `after`, as [`Query::of`] reads them.
    pub fn fields(&self, after: Option<(u32, usize)>) -> Vec<(&'static str, String)> {
        let mut fields = Vec::new();
        let mut add = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
        add("show", self.rejected.then(|| "rejected".to_string()));
        add("reason", self.reason.map(|reason| reason.name().to_string()));
        add("text", Some(self.text.clone()).filter(|text| !text.is_empty()));
        add("direction", self.direction.map(|n| n.to_string()));
        add("image", self.image.map(|n| n.to_string()));
        add("split", self.split.map(|split| split.name().to_string()));
        add("after", after.map(|(partition, row)| format!("{partition}.{row}")));
        fields
    }

    fn fits(&self, row: &IndexRow, words: &[String]) -> bool {
        let verdict = match &row.verdict {
            Verdict::Kept => !self.rejected,
            Verdict::Rejected(reason) => self.rejected && self.reason.is_none_or(|wanted| wanted == *reason),
            Verdict::Quarantined(_) => false,
        };
        let least = |least: Option<f64>, score: Option<f64>| least.is_none_or(|least| score.is_some_and(|score| score >= least));
        let scores = row.scores;
        verdict
            && least(self.direction, scores.map(|s| s.clip_sim_dir))
            && least(self.image, scores.map(|s| s.clip_sim_image))
            && (words.is_empty() || has_words(row, words))
    }
}

fn has_words(row: &IndexRow, words: &[String]) -> bool {
    let texts = [&row.edit, &row.caption, &row.output].map(|text| text.to_lowercase());
    words.iter().all(|word| texts.iter().any(|text| text.contains(word)))
}

/// A page of pairs, the newest first.
pub async fn find(tables: &Tables, query: &Query) -> Result<Found> {
    let newest = tables.newest().await?;
    let splits = tables.splits().await?;
    let words: Vec<String> = query.text.to_lowercase().split_whitespace().map(str::to_string).collect();
    let start = query.after.and_then(|(partition, _)| newest.iter().position(|c| c.partition == partition)).unwrap_or(0);
    let mut found = Found { partitions: newest.len(), splits: splits.is_some(), ..Found::default() };
    let mut rows_seen = 0;
    for committed in newest.iter().skip(start) {
        let partition = committed.partition;
        if found.looked == PARTITIONS || rows_seen > ROWS {
            found.next = Some((partition, 0));
            return Ok(found);
        }
        let rows = tables.rows(partition).await?;
        let first = query.after.filter(|(after, _)| *after == partition).map_or(0, |(_, row)| row);
        for (number, row) in rows.iter().enumerate().skip(first) {
            let split = split(splits, row);
            if !query.fits(row, &words) || query.split.is_some_and(|wanted| split != Some(wanted)) {
                continue;
            }
            if found.cards.len() == PAGE {
                found.next = Some((partition, number));
                return Ok(found);
            }
            found.cards.push(Card { partition, number, row: row.clone(), split });
        }
        found.looked += 1;
        rows_seen += rows.len();
    }
    Ok(found)
}

/// Where a kept pair went.
pub fn split(splits: Option<&HashMap<TripletId, SplitName>>, row: &IndexRow) -> Option<SplitName> {
    splits.filter(|_| row.verdict == Verdict::Kept)?.get(&row.candidate.triplet).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{CANDIDATES, Fixture, KEPT};

    fn query(fields: &[(&str, &str)]) -> Query {
        Query::of(&fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    async fn shown(fields: &[(&str, &str)]) -> Vec<IndexRow> {
        let fixture = Fixture::finished().await;
        let tables = Tables::new(&fixture.store, &fixture.plan);
        let found = find(&tables, &query(fields)).await.unwrap();
        assert_eq!((found.next, found.looked, found.splits), (None, 2, true));
        found.cards.into_iter().map(|card| card.row).collect()
    }

    #[tokio::test]
    async fn filters_choose_by_verdict_score_text_and_split() {
        assert_eq!(shown(&[]).await.len() as u64, KEPT);
        assert_eq!(shown(&[("show", "rejected")]).await.len() as u64, CANDIDATES - KEPT - 1);
        let by_image = shown(&[("show", "rejected"), ("reason", "image_similarity")]).await;
        assert!(!by_image.is_empty() && by_image.iter().all(|row| row.verdict == Verdict::Rejected(RejectReason::ImageSimilarity)));
        assert_eq!(shown(&[("direction", "0.31")]).await.len(), 0);
        assert_eq!(shown(&[("direction", "0.3"), ("image", "0.9")]).await.len() as u64, KEPT);
        assert_eq!(shown(&[("text", "BLUE number 4")]).await.len(), 1);
        assert_eq!(shown(&[("text", "green")]).await.len(), 0);
        let mut in_splits = 0;
        for split in SplitName::ALL {
            in_splits += shown(&[("split", split.name())]).await.len() as u64;
        }
        assert_eq!(in_splits, KEPT, "each pair is in one split");
    }

    #[test]
    fn nonsense_in_a_form_is_left_out_and_links_keep_the_rest() {
        assert_eq!(query(&[("show", "x"), ("reason", "no"), ("direction", "NaN"), ("after", "x.1"), ("split", "")]), Query::default());
        let full = query(&[
            ("show", "rejected"),
            ("reason", "not_among_best"),
            ("text", "a b"),
            ("direction", "0.25"),
            ("image", "0.5"),
            ("split", "test"),
        ]);
        let fields = full.fields(Some((3, 17))).into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        assert_eq!(Query::of(&fields), Query { after: Some((3, 17)), ..full });
    }
}
