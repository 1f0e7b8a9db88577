//! Whether a store really creates an object only if there is none: every guarantee of a run stands on it.

use super::Store;
use crate::error::{Error, Result};
use crate::layout;
use bytes::Bytes;
use object_store::Error as StoreError;

/// Two creates of one object at the same time: exactly one may win, and its bytes must be what is read back.
///
/// `nonce` is a random number, so that two probes at the same time do not meet. Four requests; nothing is left behind.
pub async fn probe(store: &Store, nonce: u64) -> Result<()> {
    let key = layout::probe(nonce);
    let bodies = ["first", "second"].map(|name| Bytes::from(format!("{name} creator of {nonce:016x}\n")));
    let (first, second) = futures::join!(store.put_if_absent(&key, bodies[0].clone()), store.put_if_absent(&key, bodies[1].clone()));
    let judged = judge(store, &key, &bodies, [first, second]).await;
    if let Err(e) = store.delete(&key).await {
        // A run needs no right to delete.
        tracing::debug!("the probe's object stays: {e}");
    }
    judged
}

async fn judge(store: &Store, key: &str, bodies: &[Bytes; 2], answers: [object_store::Result<()>; 2]) -> Result<()> {
    let mut winners = Vec::new();
    for (body, answer) in bodies.iter().zip(answers) {
        match answer {
            Ok(()) => winners.push(body),
            Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) if unknown_to_the_server(&error) => {
                return Err(refused(store, &format!("it cannot create an object only if there is none ({error})")));
            }
            Err(error) => return Err(store.error("create", key)(error)),
        }
    }
    let found = store.get(key).await?;
    match (&winners[..], found) {
        ([_, _], _) => Err(refused(store, "two creates of one object at the same time both succeeded")),
        ([winner], Some(found)) if found == *winner => Ok(()),
        ([_], Some(_)) => Err(refused(store, "a create that failed replaced the object all the same")),
        ([_], None) => Err(refused(store, "an object that was just created cannot be read")),
        // A reply was lost, and the client's next try met its own object.
        ([], Some(found)) if bodies.contains(&found) => Ok(()),
        (_, _) => Err(refused(store, "it said that an object exists which nobody had created")),
    }
}

/// Servers that do not know the condition say so, or the client knows it of them.
fn unknown_to_the_server(error: &StoreError) -> bool {
    let text = error.to_string();
    matches!(error, StoreError::NotImplemented { .. } | StoreError::NotSupported { .. })
        || ["501 Not Implemented", "NotImplemented"].iter().any(|words| text.contains(words))
}

fn refused(store: &Store, problem: &str) -> Error {
    Error::invalid(format!(
        "store {} cannot hold a run: {problem}. Two workers could overwrite each other's commits there. Use a store that honours \
         conditional creates (If-None-Match), perhaps a newer version of this server: docs/object-stores.md names some",
        store.url()
    ))
}
