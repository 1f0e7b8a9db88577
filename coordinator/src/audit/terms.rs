//! Terms: the numbers that no two coordinators share, and with them no two attempts.

use super::inspect::Inspector;
use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::Result;
use ip2p_pipeline::layout;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Objects read at the same time.
const READS: usize = 16;

/// Every term up to the newest that granted something is taken.
pub(super) async fn check(all: &mut Inspector<'_>) -> Result<()> {
    let listed = all.store.list(layout::TERMS).await?;
    let taken: BTreeSet<u32> = listed.iter().filter_map(|(key, _)| layout::term_of(key)).collect();
    for (first, last) in gaps(&taken, all.newest_term) {
        let number = if first == last { String::new() } else { format!(", and so are those up to {}", layout::term(last)) };
        let problem = format!("it is missing{number}");
        let advice = "put an object with the content `{}` there before the next run: a coordinator that takes the number again would give \
                      out the epochs of earlier attempts";
        all.advise(None, None, Some(&layout::term(first)), problem, advice.to_string());
    }
    if !all.quick {
        let store = all.store;
        let read = |number| async move { Ok::<_, ip2p_pipeline::Error>((number, store.get(&layout::term(number)).await?)) };
        let read: Vec<_> = futures::stream::iter(taken).map(read).buffered(READS).try_collect().await?;
        let altered = |bytes: &[u8]| serde_json::from_slice::<Map<String, Value>>(bytes).is_err();
        for (number, _) in read.iter().filter(|(_, bytes)| bytes.as_ref().is_some_and(|bytes| altered(bytes))) {
            let advice = "put `{}` there: its name alone counts, but something other than a coordinator has written to the store";
            all.advise(None, None, Some(&layout::term(*number)), "it is not what a coordinator writes".to_string(), advice.to_string());
        }
    }
    Ok(())
}

/// Ranges of numbers from 1 to `newest`, or the last one taken, that are not taken.
fn gaps(taken: &BTreeSet<u32>, newest: u32) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut last = 0;
    for &number in taken {
        if number - last > 1 {
            gaps.push((last + 1, number - 1));
        }
        last = number;
    }
    if last < newest {
        gaps.push((last + 1, newest));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_in_the_middle_and_at_the_end() {
        let gaps = |taken: &[u32], newest| gaps(&taken.iter().copied().collect(), newest);
        assert_eq!(gaps(&[1, 2, 3], 2), []);
        assert_eq!(gaps(&[2, 5], 3), [(1, 1), (3, 4)]);
        assert_eq!(gaps(&[1], u32::MAX), [(2, u32::MAX)]);
        assert_eq!(gaps(&[], 0), []);
        assert_eq!(gaps(&[u32::MAX], u32::MAX), [(1, u32::MAX - 1)]);
    }
}
