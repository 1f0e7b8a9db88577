//! The oracle against world.py: `tests/fixtures/oracle/make.py` drew the pictures and wrote down what that reads in them.

use super::*;
use ip2p_pipeline::records::Triplet;
use ip2p_pipeline::rng::{Purpose, Stream};
use ip2p_worker::images::Rgb8;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
struct Expected {
    pictures: Vec<Picture>,
    edits: Vec<Edit>,
}

#[derive(Deserialize)]
struct Picture {
    file: String,
    /// What was drawn, where the picture was left as it was.
    drawn: Option<BTreeMap<Kind, String>>,
    read: BTreeMap<Kind, String>,
    area: usize,
}

#[derive(Deserialize)]
struct Edit {
    caption: String,
    edit: String,
    output: String,
    kind: Option<Kind>,
    parsed: String,
    said: Option<BTreeMap<Kind, String>>,
}

fn world() -> World {
    World::load(&crate::repository().join("models/tiny/world.json")).unwrap()
}

/// Of the repository, or of the folder `IP2P_ORACLE_FIXTURES`, for a larger comparison than the one that is kept.
fn fixtures() -> PathBuf {
    std::env::var_os("IP2P_ORACLE_FIXTURES").map_or_else(|| crate::repository().join("tests/fixtures/oracle"), PathBuf::from)
}

fn expected() -> Expected {
    serde_json::from_str(&std::fs::read_to_string(fixtures().join("expected.json")).unwrap()).unwrap()
}

fn load(name: &str) -> Rgb8 {
    Rgb8::decode(&std::fs::read(fixtures().join(name)).unwrap()).unwrap()
}

fn owned(scene: &Scene<'_>) -> BTreeMap<Kind, String> {
    scene.iter().map(|(kind, value)| (*kind, value.to_string())).collect()
}

#[test]
fn pictures_are_read_as_world_py_reads_them() {
    let world = world();
    let expected = expected().pictures;
    assert!(expected.iter().any(|picture| picture.area == 0) && expected.iter().any(|picture| picture.drawn.is_some()));
    for Picture { file, drawn, read, area } in expected {
        let reading = world.read(&load(&file)).unwrap();
        assert_eq!((owned(&reading.scene), reading.mask.area()), (read, area), "{file}");
        if let Some(drawn) = drawn {
            assert_eq!(owned(&reading.scene), drawn, "{file}");
        }
    }
}

#[test]
fn captions_and_edits_are_read_as_world_py_reads_them() {
    let world = world();
    let expected = expected().edits;
    assert!(expected.iter().any(|edit| edit.kind.is_none()) && expected.iter().any(|edit| edit.said.is_none()));
    for Edit { caption, edit, output, kind, parsed, said } in expected {
        assert_eq!(world.edit_kind(&caption, &edit, &output), kind, "{caption} / {edit} / {output}");
        assert_eq!(world.parse(&parsed).map(|said| owned(&said)), said, "{parsed}");
    }
}

#[test]
fn noise_shows_no_object() {
    let world = world();
    let id = ip2p_pipeline::ids::CaptionId::of("noise");
    for sample in 0..200 {
        let mut stream = Stream::keyed(1, id.bytes(), sample, Purpose::Noise);
        let noise = Rgb8 { width: 64, height: 64, bytes: (0..64 * 64 * 3).map(|_| (stream.next_u32() >> 24) as u8).collect() };
        let Reading { mut scene, mask } = world.read(&noise).unwrap();
        // Grey all over, it may pass for a street.
        scene.remove(&Kind::Background);
        assert_eq!((scene, mask.area()), (Scene::new(), 0), "sample {sample}");
    }
}

#[test]
fn a_picture_of_another_size_is_refused() {
    let small = Rgb8 { width: 32, height: 32, bytes: vec![0; 32 * 32 * 3] };
    let error = world().read(&small).unwrap_err().to_string();
    assert_eq!(error, "a picture of 32x32: the pictures of this world have 64x64 pixels");
}

/// Every right edit changes one thing and nothing else; a pair is right only with both of its pictures.
#[test]
fn figures_count_what_was_read() {
    let world = world();
    let scene = |colour, position| {
        Scene::from([
            (Kind::Colour, colour),
            (Kind::Shape, "circle"),
            (Kind::Size, "big"),
            (Kind::Position, position),
            (Kind::Background, "snow"),
        ])
    };
    let triplet = Triplet::new("a red circle in the snow".into(), "make it blue".into(), "a blue circle in the snow".into(), None);
    assert!(Quality::keeps_scene(&world, &triplet));
    let mask = world.read(&load("00.png")).unwrap().mask;
    assert_eq!(mask.overlap(&mask), 1.0);
    let drawn = |before, after, kept| {
        let reading = |scene| Reading { scene, mask: mask.clone() };
        Drawn { before: reading(before), after: reading(after), kept }
    };
    let mut quality = Quality::default();
    quality.candidate(&world, &triplet, &drawn(scene("red", "left"), scene("blue", "left"), true));
    quality.candidate(&world, &triplet, &drawn(scene("red", "left"), scene("blue", "top"), false));
    quality.candidate(&world, &triplet, &drawn(scene("pink", "left"), scene("blue", "left"), true));
    quality.overlap(0, &drawn(scene("red", "left"), scene("blue", "left"), true));
    let table = quality.to_string();
    for line in [
        "| source pictures that match their caption | 0.90 | 0.667 (2 of 3) |",
        "| ... their colour, where it is said | | 0.667 (2 of 3) |",
        "| ... their background, where it is said | | 1.000 (3 of 3) |",
        "| edited pictures that match their caption | | 1.000 (3 of 3) |",
        "| mask IoU of colour and background edits at p2p 0.9 | 0.8 | 1.000 (mean of 1) |",
        "| mask IoU of colour and background edits without sharing | clearly less | none to judge |",
        "| correct edits among all candidates | | 0.333 (1 of 3) |",
        "| correct edits among the pairs that the filter keeps | 0.90 | 0.500 (1 of 2) |",
    ] {
        assert!(table.contains(line), "{line}\nis not in\n{table}");
    }
    assert!(!table.contains("their position"), "{table}");
}
