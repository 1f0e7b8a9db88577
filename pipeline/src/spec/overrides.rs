//! `--set path.to.key=value`: the value is YAML and takes the place of what the file says.

use super::diagnostics::{Place, Problem, quoted};
use super::yaml::{Entry, Node, Origin, Value, parse};

/// No key of a pipeline lies deeper.
const MAX_KEYS: usize = 8;

/// Applies the arguments in order: of two for one key the last wins.
pub(super) fn apply(root: &mut Node, arguments: &[String], problems: &mut Vec<Problem>) {
    for (i, argument) in arguments.iter().enumerate() {
        if let Err(problem) = set(root, argument, Place::Set(i), problems) {
            problems.push(problem);
        }
    }
}

fn set(root: &mut Node, argument: &str, place: Place, problems: &mut Vec<Problem>) -> Result<(), Problem> {
    let usage = || Problem::new(place, "", "expected path.to.key=value, for example stages.pairs.samples=8");
    let (path, text) = argument.split_once('=').ok_or_else(usage)?;
    let keys: Vec<&str> = path.trim().split('.').collect();
    if keys.len() > MAX_KEYS || keys.iter().any(|key| key.is_empty()) {
        return Err(usage());
    }
    let mut node = parse(text, Origin::At(place), problems)?;
    node.place = place;
    insert(root, &keys, node)
}

/// Puts `node` at the path, creating the maps on the way. A wrong key is found by the reader of the tree.
fn insert(root: &mut Node, keys: &[&str], node: Node) -> Result<(), Problem> {
    let place = node.place;
    let mut target = root;
    for (i, key) in keys.iter().enumerate() {
        if matches!(target.value, Value::Null) {
            target.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut target.value else {
            let parent = keys.get(..i).unwrap_or_default().join(".");
            return Err(Problem::new(place, keys.join("."), format!("{} has no keys of its own", quoted(&parent))));
        };
        let position = entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
            let empty = Node { place, value: Value::Null };
            entries.push(Entry { key: key.to_string(), key_place: place, node: empty });
            entries.len() - 1
        });
        let Some(entry) = entries.get_mut(position) else { return Ok(()) };
        target = &mut entry.node;
    }
    *target = node;
    Ok(())
}
