//! What the program needs of a store, and what it does when a store does not hold it.

use super::faults::{Fault, damage, faulty};
use super::places;
use futures::future::join_all;
use ip2p_pipeline::commit;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::{Attempt, ChunkManifest, Counts};
use ip2p_pipeline::records::ImageRef;
use ip2p_pipeline::store::{Created, PART, Store, probe};
use ip2p_tests::servers::{unique, urls};

/// Creators of one key at the same time.
const CREATORS: usize = 20;

#[tokio::test]
async fn objects_are_written_read_and_deleted() {
    for place in places() {
        let store = &place.store;
        assert_eq!(store.get("a/b").await.unwrap(), None, "{}", store.url());
        let missing = store.require("a/b").await.unwrap_err().to_string();
        assert!(missing.contains(&store.url_of("a/b")) && missing.contains("missing"), "{missing}");
        store.put("a/b", "hello".into()).await.unwrap();
        assert_eq!(store.require("a/b").await.unwrap(), "hello", "{}", store.url());
        store.put("a/b", "replaced".into()).await.unwrap();
        assert_eq!(store.require("a/b").await.unwrap(), "replaced", "{}", store.url());
        store.put("empty", "".into()).await.unwrap();
        assert_eq!(store.require("empty").await.unwrap(), "", "{}", store.url());
        store.delete("a/b").await.unwrap();
        assert_eq!(store.get("a/b").await.unwrap(), None, "{}", store.url());
    }
}

#[tokio::test]
async fn ranges_are_exact_and_one_behind_the_end_is_damage() {
    for place in places() {
        let store = &place.store;
        store.put("a", "0123456789".into()).await.unwrap();
        for (range, expected) in [(0..10, "0123456789"), (3..5, "34"), (9..10, "9")] {
            assert_eq!(store.get_range("a", range).await.unwrap(), expected, "{}", store.url());
        }
        for range in [8..11, 10..12, 50..60] {
            let message = store.get_range("a", range).await.unwrap_err().to_string();
            assert!(message.contains(&store.url_of("a")) && message.contains("is damaged"), "{message}");
        }
        let missing = store.get_range("b", 0..1).await.unwrap_err().to_string();
        assert!(missing.contains("it is missing"), "{missing}");
    }
}

#[tokio::test]
async fn lists_are_sorted_whole_and_end_at_their_folder() {
    for place in places() {
        let store = &place.store;
        // More than two would come in one answer if a server sent few at a time; names sort as bytes.
        let mut keys: Vec<String> = (0..30).map(|n| format!("list/p{n:08}.json")).collect();
        keys.extend(["list/P1", "list/a/deep/er", "list/p00000001/x", "list2/other", "lis"].map(str::to_string));
        join_all(keys.iter().map(|key| store.put(key, key.clone().into()))).await.into_iter().for_each(|put| put.unwrap());
        let mut expected: Vec<(String, u64)> = keys.iter().map(|key| (key.clone(), key.len() as u64)).collect();
        expected.sort();
        assert_eq!(store.list("").await.unwrap(), expected, "{}", store.url());
        expected.retain(|(key, _)| key.starts_with("list/"));
        assert_eq!(store.list("list").await.unwrap(), expected, "{}", store.url());
        assert_eq!(store.list("nothing/here").await.unwrap(), [], "{}", store.url());
        let below = store.child("list");
        assert_eq!(below.list("a").await.unwrap(), [("a/deep/er".to_string(), 14)], "{}", store.url());
    }
}

#[tokio::test]
async fn what_a_list_shows_can_be_read_whatever_its_name() {
    let names = [
        "plain",
        "with space",
        "100%",
        "50%25",
        "a#b",
        "q?x=1&y",
        "umlaut-\u{e4}\u{f6}",
        "\u{732b}",
        "[1]",
        "a+b",
        "~x",
        "x'y\"z",
        "a=b,c;d",
    ];
    for place in places() {
        let store = &place.store;
        let mut keys: Vec<String> = names.iter().map(|name| format!("odd/{name}/{name}.json")).collect();
        for key in &keys {
            store.put(key, key.clone().into()).await.unwrap();
        }
        keys.sort();
        let listed: Vec<String> = store.list("odd").await.unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(listed, keys, "{}", store.url());
        for key in &listed {
            assert_eq!(store.require(key).await.unwrap(), key.as_bytes(), "{}", store.url());
        }
        // Nothing leaves the run's prefix.
        store.put("../../up", "x".into()).await.unwrap();
        assert_eq!(store.require("../../up").await.unwrap(), "x", "{}", store.url());
        assert!(store.list("").await.unwrap().iter().any(|(key, _)| key == "%2E%2E/%2E%2E/up"), "{}", store.url());
    }
}

#[tokio::test]
async fn large_objects_go_up_in_parts_and_come_back_whole() {
    let size = 2 * PART as usize + 12_345;
    let bytes: bytes::Bytes = (0..size).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>().into();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    for place in places() {
        let store = &place.store;
        let object = commit::write_data(store, "shard", "large/memory".to_string(), bytes.clone()).await.unwrap();
        assert!(commit::read_data(store, &object).await.unwrap() == bytes, "{}", store.url());
        store.put_file("large/file", file.path()).await.unwrap();
        assert!(store.require("large/file").await.unwrap() == bytes, "{}", store.url());
        let seam = PART - 3..PART + 3;
        assert_eq!(store.get_range("large/file", seam.clone()).await.unwrap(), bytes.slice(seam.start as usize..seam.end as usize));
        let listed = store.list("large").await.unwrap();
        let expected = ["large/file", "large/memory"].map(|key| (key.to_string(), size as u64));
        assert_eq!(listed, expected, "{}", store.url());
        // A second writer of the same name replaces it, as a shard that is written again.
        store.put_file("large/memory", file.path()).await.unwrap();
        assert!(commit::read_data(store, &object).await.unwrap() == bytes, "{}", store.url());
    }
}

#[tokio::test]
async fn of_many_creators_one_wins_and_all_see_its_bytes() {
    for place in places() {
        for round in 0..3 {
            let (store, key) = (&place.store, format!("race/{round}"));
            let body = |n: usize| bytes::Bytes::from(format!("creator {n}"));
            let answers = join_all((0..CREATORS).map(|n| store.create(&key, body(n)))).await;
            let found = store.require(&key).await.unwrap();
            let mut winners = 0;
            for (n, answer) in answers.into_iter().enumerate() {
                match answer.unwrap() {
                    Created::Ours => {
                        winners += 1;
                        assert_eq!(found, body(n), "{}", store.url());
                    }
                    Created::Theirs(theirs) => assert_eq!(theirs, found, "{}", store.url()),
                }
            }
            assert_eq!(winners, 1, "{}", store.url());
        }
    }
}

fn chunk(end: u64, epoch: u64) -> (StageDir, ChunkManifest) {
    let dir = StageDir { stage: Stage::Pairs, fingerprint: Fingerprint::of(&["test"]) };
    let chunk = ChunkManifest {
        stage: Stage::Pairs,
        partition: 3,
        start: 0,
        end,
        attempt: Attempt { epoch, worker: "w".to_string() },
        counts: Counts::default(),
        objects: Vec::new(),
        seconds: 0.0,
        figures: Default::default(),
        stored_by: None,
    };
    (dir, chunk)
}

#[tokio::test]
async fn a_commit_whose_reply_was_lost_is_ours() {
    for place in places() {
        for fault in [Fault::LostReply, Fault::LostReplyRetried, Fault::Conflict(3)] {
            let store = faulty(&place.store, fault);
            let (dir, ours) = chunk(5, 1);
            assert_eq!(commit::commit_chunk(&store, &dir, &ours).await.unwrap(), commit::Committed::Ours, "{fault:?} on {}", store.url());
            let (_, later) = chunk(8, 2);
            let theirs = commit::Committed::Theirs(ours);
            assert_eq!(commit::commit_chunk(&store, &dir, &later).await.unwrap(), theirs, "{fault:?} on {}", store.url());
        }
        // What nobody created is no commit of anyone.
        let store = faulty(&place.store, Fault::AlwaysExists);
        let (dir, ours) = chunk(5, 1);
        let message = commit::commit_chunk(&store, &dir, &ours).await.unwrap_err().to_string();
        assert!(message.contains("said AlreadyExists, but there is no such object"), "{message}");
    }
}

#[tokio::test]
async fn missing_truncated_and_altered_objects_are_named() {
    for place in places() {
        let store = &place.store;
        let object = commit::write_data(store, "images", "data/images.tar".to_string(), "0123image9".into()).await.unwrap();
        let image = ImageRef::describe("data/images.tar", 4, b"image");
        assert_eq!(commit::read_image(store, &image).await.unwrap(), "image");
        let problem = async |words: &str| {
            let whole = commit::read_data(store, &object).await.unwrap_err().to_string();
            assert!(whole.contains(&store.url_of("data/images.tar")) && whole.contains(words), "{whole}");
            let part = commit::read_image(store, &image).await.unwrap_err().to_string();
            assert!(part.contains(&store.url_of("data/images.tar")) && part.contains("is damaged"), "{part}");
        };
        damage(store, "data/images.tar", |bytes| bytes[5] ^= 1).await;
        problem("checksum differs").await;
        damage(store, "data/images.tar", |bytes| bytes.truncate(6)).await;
        problem("it has 6 bytes, its manifest says 10").await;
        store.delete("data/images.tar").await.unwrap();
        problem("it is missing").await;
    }
}

#[tokio::test]
async fn the_probe_accepts_a_store_that_keeps_its_promise_and_leaves_nothing() {
    for place in places() {
        for nonce in 0..3 {
            probe(&place.store, nonce).await.unwrap();
        }
        // Two coordinators that start at the same time do not meet.
        let (one, other) = futures::join!(probe(&place.store, 8), probe(&place.store, 9));
        one.and(other).unwrap();
        assert_eq!(place.store.list("").await.unwrap(), [], "{}", place.store.url());
        // A reply that was lost is no broken promise.
        probe(&faulty(&place.store, Fault::LostReplyRetried), 1).await.unwrap();
    }
}

#[tokio::test]
async fn the_probe_refuses_by_name_a_store_that_breaks_it() {
    let cases = [
        (Fault::Overwrites, "both succeeded"),
        (Fault::AlwaysExists, "nobody had created"),
        (Fault::LoserReplaces, "replaced the object all the same"),
        (Fault::Unsupported, "cannot create an object only if there is none"),
    ];
    for place in places() {
        for (fault, problem) in cases {
            let store: Store = faulty(&place.store, fault);
            let message = probe(&store, 1).await.unwrap_err().to_string();
            assert!(message.starts_with(&format!("store {} cannot hold a run: ", store.url())), "{message}");
            assert!(message.contains(problem) && message.contains("docs/object-stores.md"), "{message}");
            assert_eq!(store.list("").await.unwrap(), [], "{fault:?} on {}", store.url());
        }
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_said_to_be_missing() {
    ip2p_worker::tls::install();
    // SeaweedFS makes a bucket when something is put there.
    for url in urls().into_iter().filter(|url| !url.starts_with("s3://")) {
        let store = Store::open(&format!("{}-{}", url.trim_end_matches('/'), unique())).unwrap();
        let message = probe(&store, 1).await.unwrap_err().to_string();
        assert!(message.ends_with("Create the bucket first, or mend its name"), "{message}");
    }
}
