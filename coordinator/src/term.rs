//! Terms: each coordinator incarnation owns one number, and with it the upper half of its epochs.
//!
//! A term is taken by creating an object, so two coordinators never share one, and a restart always gets a
//! larger one: epochs never go back, without any database.

use crate::prepare;
use ip2p_pipeline::layout;
use ip2p_pipeline::planted::{self, Defect};
use ip2p_pipeline::store::{Created, Store};
use ip2p_pipeline::{Error, Result};
use std::time::Duration;
use tokio::sync::mpsc;

/// How often a coordinator looks whether another has taken the run over.
const CHECK: Duration = Duration::from_secs(10);

/// The right to grant epochs `number << 32 ..`.
#[derive(Clone, Debug)]
pub struct Term {
    store: Store,
    pub number: u32,
}

impl Term {
    /// Takes the next free term.
    pub async fn take(store: &Store) -> Result<Self> {
        let taken = store.list(layout::TERMS).await?;
        let last = taken.last().and_then(|(key, _)| layout::term_of(key)).unwrap_or(0);
        let mut number = after(store, last)?;
        // In containers every process has the same number: chance tells two owners apart.
        let owner = serde_json::json!({
            "process": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "nonce": format!("{:016x}", prepare::random()?),
        });
        while let Created::Theirs(_) = store.create(&layout::term(number), owner.to_string().into()).await? {
            if planted::has(Defect::SharedTerm) {
                break;
            }
            number = after(store, number)?;
        }
        Ok(Term { store: store.clone(), number })
    }

    /// Sends the newer term once another coordinator has taken the run over; looks every few seconds, apart from
    /// the driver, which must not wait for the store.
    pub fn watch(&self) -> mpsc::Receiver<u32> {
        let (send, receive) = mpsc::channel(1);
        let term = self.clone();
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(CHECK);
            while !send.is_closed() {
                interval.tick().await;
                if let Some(newer) = term.lost().await {
                    // The driver may have ended by itself.
                    let _ = send.send(newer).await;
                    return;
                }
            }
        });
        receive
    }

    /// The newer term, if another coordinator has taken the run over.
    ///
    /// An error of the store says nothing: it is left to the next check.
    pub async fn lost(&self) -> Option<u32> {
        let next = self.number.checked_add(1)?;
        matches!(self.store.get(&layout::term(next)).await, Ok(Some(_))).then_some(next)
    }
}

fn after(store: &Store, term: u32) -> Result<u32> {
    let last = || Error::Damaged { key: store.url_of(&layout::term(term)), problem: "no run starts so often".to_string() };
    term.checked_add(1).ok_or_else(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_of_all_terms_is_an_error() {
        let store = Store::memory();
        store.put(&layout::term(u32::MAX), "{}".into()).await.unwrap();
        let message = Term::take(&store).await.unwrap_err().to_string();
        assert!(message.contains("4294967295"), "{message}");
    }

    #[tokio::test]
    async fn terms_only_grow_and_the_older_one_notices() {
        let store = Store::memory();
        let first = Term::take(&store).await.unwrap();
        assert_eq!((first.number, first.lost().await), (1, None));
        let second = Term::take(&store).await.unwrap();
        assert_eq!((second.number, first.lost().await, second.lost().await), (2, Some(2), None));
    }
}
