//! Reading objects of the API without losing what is not understood: a key that the API's types do not have is an error,
//! as it would be a key that the cluster silently drops.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The typed object, or which key is wrong.
pub fn read<T: DeserializeOwned + Serialize>(value: &Value) -> Result<T, String> {
    let typed: T = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
    let known = serde_json::to_value(&typed).map_err(|e| e.to_string())?;
    match lost(value, &known) {
        Some(path) => Err(format!("`{path}` is no key of the Kubernetes API here")),
        None => Ok(typed),
    }
}

/// The first key of `given` that `known` does not have. Empty lists and maps may be left out.
fn lost(given: &Value, known: &Value) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| match known.get(key) {
            None if is_empty(value) => None,
            None => Some(key.clone()),
            Some(inner) => lost(value, inner).map(|path| format!("{key}.{path}")),
        }),
        (Value::Array(given), Value::Array(known)) => {
            let mut pairs = given.iter().zip(known).enumerate();
            pairs.find_map(|(i, (given, known))| lost(given, known).map(|path| format!("{i}.{path}")))
        }
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Affinity, Toleration};
    use serde_json::json;

    #[test]
    fn a_key_that_the_cluster_would_drop_is_named() {
        let toleration = json!({ "key": "gpu", "operator": "Exists", "efect": "NoSchedule" });
        assert_eq!(read::<Toleration>(&toleration).unwrap_err(), "`efect` is no key of the Kubernetes API here");
        let affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
            { "matchExpression": [] , "matchFields": [{ "key": "a", "operator": "In", "value": ["x"] }] }] } } });
        assert!(read::<Affinity>(&affinity).unwrap_err().contains("nodeSelectorTerms.0.matchFields.0.value`"));
        assert!(read::<Toleration>(&json!({ "tolerationSeconds": "soon" })).unwrap_err().contains("soon"));
    }
}
