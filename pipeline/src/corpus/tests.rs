//! Whole files through the whole reader.

use super::import::freeze;
use super::read::{on_blocking_thread, read};
use super::source::{find, find_in_store};
use super::*;
use crate::error::Result;
use crate::ids::Fingerprint;
use crate::layout::{Stage, StageDir};
use crate::manifest::Attempt;
use crate::records::{CorpusRecord, Edit};
use crate::spec::Corpus;
use crate::store::Store;
use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use bytes::Bytes;
use proptest::prelude::*;
use std::io::Write;
use std::sync::Arc;
use tempfile::TempDir;

/// A folder of corpus files.
struct Folder(TempDir);

impl Folder {
    fn with(files: &[(&str, &[u8])]) -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        for (name, bytes) in files {
            std::fs::write(folder.0.path().join(name), bytes).unwrap();
        }
        folder
    }

    fn corpus(&self, name: &str) -> Corpus {
        Corpus { path: self.0.path().join(name).display().to_string(), caption_column: None, url_column: None, limit: None }
    }

    /// The text of a message with this folder's own path taken out.
    fn shorten(&self, message: String) -> String {
        message.replace(&format!("{}/", self.0.path().display()), "")
    }
}

async fn records_of(spec: Corpus, with_edits: bool) -> Result<(Vec<CorpusRecord>, CorpusReport)> {
    let sources = find(&spec.path).await?;
    on_blocking_thread(move |thread| {
        let mut records = Vec::new();
        let report = read(&sources, &spec, with_edits, thread, &mut |record| {
            records.push(record);
            Ok(())
        })?;
        Ok((records, report))
    })
    .await
}

async fn read_one(name: &str, bytes: &[u8]) -> (Vec<(String, Option<String>)>, CorpusReport) {
    let (records, report) = records_of(Folder::with(&[(name, bytes)]).corpus(name), false).await.unwrap();
    assert_eq!(report.rows, report.usable + report.skipped_total());
    assert_eq!(report.usable, records.len() as u64);
    (records.into_iter().map(|r| (r.caption, r.url)).collect(), report)
}

async fn captions(name: &str, bytes: &[u8]) -> Vec<String> {
    read_one(name, bytes).await.0.into_iter().map(|(caption, _)| caption).collect()
}

async fn refusal(name: &str, bytes: &[u8]) -> String {
    let folder = Folder::with(&[(name, bytes)]);
    folder.shorten(records_of(folder.corpus(name), false).await.unwrap_err().to_string())
}

fn skipped(report: &CorpusReport) -> Vec<(&str, u64, u64)> {
    report.skipped.iter().map(|(reason, s)| (reason.as_str(), s.rows, s.first.row)).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn pair(caption: &str, url: &str) -> (String, Option<String>) {
    (caption.to_string(), Some(url.to_string()))
}

const TWO_LINES: &[u8] = b"{\"caption\":\"a red circle\"}\n{\"caption\":\"a blue square\"}\n";

#[tokio::test]
async fn jsonl_rows_without_a_caption_are_counted_by_reason() {
    let long = "x".repeat(10_001);
    let mut lines = vec![
        "\u{feff}{\"id\": 1}".to_string(),
        "{\"TEXT\": null}".to_string(),
        "{\"TEXT\": 7}".to_string(),
        "{\"TEXT\": \" \\t \"}\r".to_string(),
        String::new(),
        format!("{{\"TEXT\": \"{long}\"}}"),
        "{\"TEXT\": \"half a pair \\ud800\"}".to_string(),
        "{\"URL\": \"http://u/1\", \"TEXT\": \" kept as it is \", \"more\": [1, {\"TEXT\": \"no\"}]}".to_string(),
        "{\"TEXT\": \" kept as it is \"}".to_string(),
        "{\"TEXT\": \"other\", \"URL\": \"http://u/1\"}".to_string(),
        "{\"TEXT\": \"no url\", \"URL\": \"\"}".to_string(),
    ];
    lines.push("{\"text\": \"lower case wins\", \"TEXT\": \"over upper\"}".to_string());
    let mut bytes = lines.join("\n").into_bytes();
    bytes.extend(b"\n{\"TEXT\": \"caf\xe9\"}");
    let (records, report) = read_one("laion.jsonl", &bytes).await;
    assert_eq!(records, [pair(" kept as it is ", "http://u/1"), ("no url".to_string(), None), ("lower case wins".to_string(), None)]);
    let expected = [
        ("caption_empty", 1, 4),
        ("caption_invalid_utf8", 2, 7),
        ("caption_missing", 1, 1),
        ("caption_not_text", 1, 3),
        ("caption_null", 1, 2),
        ("caption_too_long", 1, 6),
        ("duplicate_caption", 1, 9),
        ("duplicate_url", 1, 10),
    ];
    assert_eq!(skipped(&report), expected);
    assert_eq!(report.rows, 12);
    assert!(report.skipped["caption_null"].first.file.ends_with("laion.jsonl"));
}

#[tokio::test]
async fn columns_are_found_without_case_and_the_best_name_wins() {
    for (line, expected) in [
        ("{\"Prompt\": \"p\"}", "p"),
        ("{\"input\": \"i\", \"edit\": \"e\", \"output\": \"o\"}", "i"),
        ("{\"original_prompt\": \"op\"}", "op"),
        ("{\"TEXT\": \"alt\", \"top_caption\": \"top\", \"all_captions\": [\"top\"]}", "top"),
        ("{\"text\": \"t\", \"CAPTION\": \"c\"}", "c"),
    ] {
        assert_eq!(captions("x.jsonl", line.as_bytes()).await, [expected]);
    }
    let folder = Folder::with(&[("x.jsonl", b"{\"caption\": \"no\", \"Title\": \"yes\", \"link\": \"u\", \"url\": \"v\"}")]);
    let spec = Corpus { caption_column: Some("title".into()), url_column: Some("link".into()), ..folder.corpus("x.jsonl") };
    let (records, report) = records_of(spec, false).await.unwrap();
    assert_eq!((records[0].caption.as_str(), records[0].url.as_deref()), ("yes", Some("u")));
    assert_eq!(report.files[0].caption_column.as_deref(), Some("Title"));
    assert_eq!(report.files[0].url_column.as_deref(), Some("link"));
}

#[tokio::test]
async fn csv_and_tsv_with_header() {
    let csv = "url,caption\nhttp://u/1,\"a, \"\"quoted\"\"\nline\"\n,b\nhttp://u/3,\n";
    let (records, report) = read_one("x.csv", csv.as_bytes()).await;
    assert_eq!(records, [pair("a, \"quoted\"\nline", "http://u/1"), ("b".to_string(), None)]);
    assert_eq!(skipped(&report), [("caption_empty", 1, 5)]);
    let (records, report) = read_one("x.tsv", b"Caption\tURL\r\n5\" pipe\thttp://u/1\r\n\t\r\n").await;
    assert_eq!(records, [pair("5\" pipe", "http://u/1")]);
    assert_eq!(skipped(&report), [("caption_empty", 1, 3)]);
    let (records, report) = read_one("x.csv", b"caption\ncaf\xe9\ntea\n").await;
    assert_eq!(records.len(), 1);
    assert_eq!(skipped(&report), [("caption_invalid_utf8", 1, 2)]);
}

#[tokio::test]
async fn without_header_the_url_tells_the_columns() {
    let cc3m = "a very typical bus station\thttp://lh6/-A\nsierra looked stunning\thttp://78.media/b\n";
    let cc12m = "https://i.pinimg/a.jpg\ta very typical bus station\nhttps://x/b\tsierra looked stunning\n";
    for (text, column) in [(cc3m, "1"), (cc12m, "2")] {
        for name in ["train.tsv", "train"] {
            let (records, report) = read_one(name, text.as_bytes()).await;
            assert_eq!(records[0].0, "a very typical bus station");
            assert!(records[0].1.as_ref().unwrap().starts_with("http"));
            assert_eq!(report.usable, 2);
            assert_eq!(report.files[0].caption_column.as_deref(), Some(column));
        }
    }
    let three = Folder::with(&[("x.tsv", b"7\thttp://u/1\ta bus\n8\t\ta car\n")]);
    let spec = Corpus { caption_column: Some("3".to_string()), ..three.corpus("x.tsv") };
    let (records, _) = records_of(spec, false).await.unwrap();
    assert_eq!(records.iter().map(|r| r.caption.as_str()).collect::<Vec<_>>(), ["a bus", "a car"]);
    assert_eq!(records[0].url.as_deref(), Some("http://u/1"));
    let message = three.shorten(records_of(three.corpus("x.tsv"), false).await.unwrap_err().to_string());
    assert!(message.contains("x.tsv has no header and 3 columns") && message.contains("caption_column"), "{message}");
}

#[tokio::test]
async fn coco_annotations_get_the_url_of_their_image() {
    let coco = serde_json::json!({
        "info": {"year": 2017, "nested": [[1], {"annotations": []}]},
        "images": [{"id": 9, "coco_url": "http://coco/9", "flickr_url": "http://f/9"}, {"id": 4, "flickr_url": "http://f/4"}, {"id": "x"}],
        "annotations": [
            {"id": 1, "image_id": 9, "caption": "a dog"},
            {"id": 2, "image_id": 9, "caption": "a dog on a mat"},
            {"id": 3, "image_id": 4, "caption": "a dog"},
            {"id": 4, "image_id": 5, "caption": "a cat"},
            {"id": 5, "image_id": 4}
        ]
    });
    for text in [coco.to_string(), serde_json::to_string_pretty(&coco).unwrap()] {
        let (records, report) = read_one("captions_train2017.json", text.as_bytes()).await;
        assert_eq!(records, [pair("a dog", "http://coco/9"), pair("a dog on a mat", "http://coco/9"), ("a cat".to_string(), None)]);
        assert_eq!(skipped(&report), [("caption_missing", 1, 5), ("duplicate_caption", 1, 3)]);
        assert_eq!(report.files[0].format, Format::Coco);
    }
}

type UrlAndText<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A Parquet file of the original's LAION kind, with one row group per entry of `groups`.
fn parquet_file(groups: &[&[UrlAndText]]) -> Vec<u8> {
    let schema = "message m { required int64 id; optional binary URL (UTF8); optional binary TEXT (UTF8); \
                  optional group all_captions (LIST) { repeated group list { optional binary caption (UTF8); } } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Default::default()).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        let mut id = group.next_column().unwrap().unwrap();
        id.typed::<Int64Type>().write_batch(&vec![1; rows.len()], None, None).unwrap();
        id.close().unwrap();
        for cell in [|row: &UrlAndText| row.0.map(<[u8]>::to_vec), |row: &UrlAndText| row.1.map(<[u8]>::to_vec)] {
            let cells: Vec<Option<Vec<u8>>> = rows.iter().map(cell).collect();
            let levels: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
            let values: Vec<ByteArray> = cells.into_iter().flatten().map(ByteArray::from).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        let mut list = group.next_column().unwrap().unwrap();
        let n = rows.len();
        list.typed::<ByteArrayType>().write_batch(&[], Some(&vec![0; n]), Some(&vec![0; n])).unwrap();
        list.close().unwrap();
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn parquet_reads_text_columns_across_row_groups() {
    let many: Vec<String> = (0..3000).map(|i| format!("caption {i}")).collect();
    let first: Vec<UrlAndText> = many.iter().map(|text| (None, Some(text.as_bytes()))).collect();
    let second: &[UrlAndText] =
        &[(Some(b"http://u"), Some(b"a bus")), (None, None), (None, Some(b"caf\xe9")), (Some(b"http://u"), Some(b"a car"))];
    // The name does not matter: the first bytes tell.
    for name in ["part-0.parquet", "part-0"] {
        let (records, report) = read_one(name, &parquet_file(&[&first, second])).await;
        assert_eq!(records.len(), 3001);
        assert_eq!(records[2999].0, "caption 2999");
        assert_eq!(records[3000], pair("a bus", "http://u"));
        assert_eq!(skipped(&report), [("caption_invalid_utf8", 1, 3003), ("caption_null", 1, 3002), ("duplicate_url", 1, 3004)]);
        assert_eq!((report.files[0].caption_column.as_deref(), report.files[0].format), (Some("TEXT"), Format::Parquet));
    }
}

#[tokio::test]
async fn a_corpus_of_triplets_keeps_every_edit() {
    let line =
        |c: &str, o: &str| format!("{{\"input\": \"{c}\", \"edit\": \"make it red\", \"output\": \"{o}\", \"url\": \"http://u\"}}\n");
    let text = [line("a", "x"), line("a", "y"), line("a", "x"), "{\"input\": \"b\", \"output\": \"z\"}\n".to_string()].concat();
    let folder = Folder::with(&[
        ("t.jsonl", text.as_bytes()),
        ("t.csv", b"original_prompt,edit_prompt,edited_prompt\nq,turn it,w\n"),
        ("no.csv", b"caption,url\na,http://u\n"),
    ]);
    let (records, report) = records_of(folder.corpus("t.jsonl"), true).await.unwrap();
    assert_eq!(records.iter().map(|r| r.edit.as_ref().unwrap().output.as_str()).collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(skipped(&report), [("duplicate_triplet", 1, 3), ("edit_missing", 1, 4)]);
    let (records, _) = records_of(folder.corpus("t.csv"), true).await.unwrap();
    assert_eq!(records[0].edit, Some(Edit { edit: "turn it".to_string(), output: "w".to_string() }));
    let message = folder.shorten(records_of(folder.corpus("no.csv"), true).await.unwrap_err().to_string());
    assert!(message.contains("no.csv: no edit column") && message.contains("`caption`, `url`"), "{message}");
}

#[tokio::test]
async fn compression_is_told_by_content() {
    let twice = [gzip(&TWO_LINES[..27]), gzip(&TWO_LINES[27..])].concat();
    let zstd = zstd::encode_all(TWO_LINES, 3).unwrap();
    for (name, bytes) in
        [("a.jsonl.gz", &gzip(TWO_LINES)), ("a.jsonl", &twice), ("a.jsonl.zst", &zstd), ("a.json.zst", &zstd), ("a", &zstd)]
    {
        assert_eq!(captions(name, bytes).await, ["a red circle", "a blue square"], "{name}");
    }
}

#[tokio::test]
async fn broken_files_name_themselves_and_the_place() {
    let zipped = gzip(&TWO_LINES.repeat(3000));
    let cut = zstd::encode_all(TWO_LINES, 3).unwrap();
    let parquet = parquet_file(&[&[(None, Some(b"a"))]]);
    let coco = b"{\"images\": [], \"annotations\": [{\"caption\": \"a\"}, {\"caption\": ]}";
    let cases: [(&str, &[u8], &[&str]); 19] = [
        ("a.jsonl", b"{\"caption\": \"a\"}\n{\"caption\": \"b\"\n", &["a.jsonl:2: not valid JSON", "column"]),
        ("a.jsonl", b"{\"caption\": \"a\"}\n[1]\n", &["a.jsonl:2: expected a JSON object"]),
        ("a.jsonl", b"{\"id\": 1, \"title\": \"a\"}\n", &["a.jsonl: no caption column", "`id`, `title`", "corpus.caption_column"]),
        ("a.jsonl.gz", &zipped[..zipped.len() - 20], &["a.jsonl.gz, after line ", "cut off"]),
        ("a.jsonl.zst", &cut[..cut.len() - 3], &["a.jsonl.zst, before the end of its first row", "cut off"]),
        ("a.jsonl", b"", &["no usable row among 0"]),
        ("a.jsonl", b"{\"caption\": \"\"}", &["no usable row among 1: caption_empty 1 (first a.jsonl:1)"]),
        ("a.csv", b"caption,url\na,b\nc\n", &["a.csv:3: this row has 1 columns, the first has 2"]),
        ("a.csv", b"caption,url\r\na,b\r\nc\r\n", &["a.csv:3: this row has 1 columns"]),
        ("a.csv", b"id,title\n1,a\n", &["a.csv: no caption column", "`id`, `title`", "its number"]),
        ("a.csv", b"\xff\xfec\0\n\0", &["a.csv is UTF-16 text"]),
        ("a.json", b"[{\"caption\": \"a\"}]", &["a.json is one JSON array", "jq"]),
        ("a.json", b"{\"images\": [\n]}", &["a.json", "without `annotations`"]),
        ("a.json", coco, &["a.json, after annotation 1: not valid COCO JSON"]),
        ("a.dat", b"one\ntwo\n", &["a.dat", "tells a format"]),
        ("a.parquet", TWO_LINES, &["a.parquet", "PAR1"]),
        ("a.parquet", &parquet[..parquet.len() - 9], &["a.parquet", "cut off"]),
        ("a.parquet", b"PAR1", &["a.parquet", "cut off"]),
        ("a.parquet.gz", &gzip(&parquet), &["a.parquet.gz is a compressed Parquet file"]),
    ];
    for (name, bytes, parts) in cases {
        let message = refusal(name, bytes).await;
        assert!(parts.iter().all(|part| message.contains(part)), "{name}: {message}");
    }
}

/// What a decoder gives before it fails.
fn readable(mut decoder: impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(decoder.read_to_end(&mut bytes).is_err());
    bytes
}

/// The text of `rows` rows that hardly compress, each one line.
fn many_rows(rows: u64, row: impl Fn(&str) -> String) -> Vec<u8> {
    (0..rows).map(|n| row(&blake3::hash(&n.to_le_bytes()).to_hex()) + "\n").collect::<String>().into_bytes()
}

#[tokio::test]
async fn a_cut_compressed_file_names_its_last_whole_row() {
    let jsonl = |rows| many_rows(rows, |text| format!("{{\"caption\": \"{text}\"}}"));
    let csv = [b"caption,url\n".to_vec(), many_rows(9000, |text| format!("{text},"))].concat();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    // Cut within what is looked at to tell the format, and far behind it.
    let cases: [(&str, Vec<u8>, usize); 5] = [
        ("a.jsonl.gz", gzip(&jsonl(300)), 1000),
        ("a.jsonl.gz", gzip(&jsonl(9000)), 1000),
        ("a.jsonl.zst", zstd(&jsonl(9000)), 1000),
        ("a.csv.gz", gzip(&csv), 1000),
        ("a.csv.zst", zstd(&csv), 1000),
    ];
    for (name, bytes, less) in cases {
        let cut = &bytes[..bytes.len() - less];
        let text =
            if name.ends_with("gz") { readable(flate2::read::GzDecoder::new(cut)) } else { readable(zstd::Decoder::new(cut).unwrap()) };
        let whole = text.iter().filter(|byte| **byte == b'\n').count();
        assert!(whole > 100, "{name}: {whole}");
        let message = refusal(name, cut).await;
        let place = if name.contains("csv") { format!("the row of line {whole}") } else { format!("line {whole}") };
        assert!(message.starts_with(&format!("{name}, after {place}: ")), "{whole}: {message}");
    }
}

#[tokio::test]
async fn one_endless_row_is_refused_in_bounded_memory() {
    let bomb = |start: &str| gzip(&[start.as_bytes(), &vec![b'x'; 20 << 20]].concat());
    for (name, start) in [
        ("a.jsonl", "{\"caption\": \"a\"}\n{\"caption\": \""),
        ("a.csv", "caption\na\n\""),
        ("a.json", "{\"images\": [],\n\"annotations\": [{\"caption\": \"a\"}, {\"caption\": \""),
    ] {
        let message = refusal(name, &bomb(start)).await;
        assert!(message.contains("one row takes more than 16 MiB") && message.contains(", after "), "{name}: {message}");
    }
}

#[tokio::test]
async fn the_limit_counts_usable_rows_over_all_files() {
    let folder =
        Folder::with(&[("1.jsonl", TWO_LINES), ("2.csv", b"caption\n\"\"\na red circle\nthird\nfourth\n"), ("3.csv", b"broken\n")]);
    let (records, report) = records_of(Corpus { limit: Some(3), ..folder.corpus("[0-9].*") }, false).await.unwrap();
    assert_eq!(records.iter().map(|r| r.caption.as_str()).collect::<Vec<_>>(), ["a red circle", "a blue square", "third"]);
    assert_eq!(report.files.iter().map(|file| (file.rows, file.usable)).collect::<Vec<_>>(), [(2, 2), (3, 1)]);
    assert!(report.limited);
    assert_eq!(skipped(&report), [("caption_empty", 1, 2), ("duplicate_caption", 1, 3)]);
}

fn stage_dir() -> StageDir {
    StageDir { stage: Stage::Corpus, fingerprint: Fingerprint::of(&["test"]) }
}

fn attempt(epoch: u64) -> Attempt {
    Attempt { epoch, worker: "test".to_string() }
}

#[tokio::test]
async fn import_freezes_what_was_read_whatever_the_files() {
    let lines: Vec<String> = (0..40_000).map(|i| format!("{{\"caption\":\"caption {i}\",\"url\":\"http://u/{i}\"}}\n")).collect();
    let (one, two) = (lines[..777].concat(), lines[777..].concat());
    let folder = Folder::with(&[("1.jsonl", one.as_bytes()), ("2.jsonl", &gzip(two.as_bytes())), ("all.json", lines.concat().as_bytes())]);
    let import =
        async |name: &str, store: &Store, epoch| import(&folder.corpus(name), false, store, &stage_dir(), &attempt(epoch)).await.unwrap();
    let store = Store::memory();
    assert_eq!(load(&store, &stage_dir()).await.unwrap(), None);
    let split = import("*.jsonl", &store, 1).await;
    let whole = import("all.json", &Store::memory(), 1).await;
    assert_eq!((split.records, split.fingerprint), (whole.records, whole.fingerprint));
    assert_eq!(split.objects, whole.objects, "the same records make the same objects");
    assert_eq!(split.objects.iter().map(|object| object.records).collect::<Vec<_>>(), [16_384, 16_384, 7_232]);
    assert_eq!(load(&store, &stage_dir()).await.unwrap().as_ref(), Some(&split));
    assert_eq!(import("1.jsonl", &store, 2).await, split, "the first import stands");
    for (start, end) in [(0, 1), (16_380, 16_390), (0, 40_000), (39_999, 40_000), (7, 7)] {
        let records = read_range(&store, &split, start..end).await.unwrap();
        let expected: Vec<String> = (start..end).map(|i| format!("caption {i}")).collect();
        assert_eq!(records.iter().map(|r| r.caption.as_str()).collect::<Vec<_>>(), expected);
    }
    assert!(read_range(&store, &split, 0..40_001).await.unwrap_err().to_string().contains("outside a corpus of 40000"));
    store.put(&split.objects[0].data.key, Bytes::from_static(b"x")).await.unwrap();
    assert!(read_range(&store, &split, 0..1).await.unwrap_err().to_string().contains("damaged"));
}

#[tokio::test]
async fn corpora_in_an_object_store_are_read_like_files() {
    let inputs = Store::memory();
    inputs.put("in/1.parquet", parquet_file(&[&[(None, Some(b"first"))]]).into()).await.unwrap();
    inputs.put("in/2.jsonl.gz", gzip(TWO_LINES).into()).await.unwrap();
    let sources = find_in_store(&inputs, "in/*").await.unwrap();
    let spec = Corpus { path: "memory:///in/*".to_string(), caption_column: None, url_column: None, limit: None };
    let store = Store::memory();
    let manifest = freeze(sources, &spec, false, &store, &stage_dir(), &attempt(1)).await.unwrap();
    let records = read_range(&store, &manifest, 0..3).await.unwrap();
    assert_eq!(records.iter().map(|r| r.caption.as_str()).collect::<Vec<_>>(), ["first", "a red circle", "a blue square"]);
    assert_eq!(manifest.report.files[1].name, inputs.url_of("in/2.jsonl.gz"));
}

#[tokio::test]
async fn the_fingerprint_sees_order_urls_and_edits() {
    let of = async |text: &str, with_edits| {
        let folder = Folder::with(&[("a.csv", text.as_bytes())]);
        import(&folder.corpus("a.csv"), with_edits, &Store::memory(), &stage_dir(), &attempt(1)).await.unwrap().fingerprint
    };
    let all = [
        of("caption,url\na,\nb,\n", false).await,
        of("caption,url\nb,\na,\n", false).await,
        of("caption,url\na,u\nb,\n", false).await,
        of("caption,url\na,\nb,u\n", false).await,
        of("caption,edit,output\na,e,o\nb,e,o\n", true).await,
        of("caption,edit,output\na,eo,o\nb,e,o\n", true).await,
    ];
    assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
    assert_eq!(all[0], of("CAPTION\na\nb\na\n", false).await);
}

fn blocking<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_text_survives_jsonl_csv_and_the_store(texts in proptest::collection::hash_set(".{0,40}", 1..20)) {
        let usable: Vec<String> = texts.iter().filter(|text| !text.trim().is_empty()).cloned().collect();
        prop_assume!(!usable.is_empty());
        let jsonl: String = texts.iter().map(|text| serde_json::json!({"id": 1, "caption": text}).to_string() + "\n").collect();
        prop_assert_eq!(&blocking(captions("x.jsonl", jsonl.as_bytes())), &usable);
        let csv: String = texts.iter().map(|text| format!("1,\"{}\"\n", text.replace('"', "\"\""))).collect();
        prop_assert_eq!(&blocking(captions("x.csv", format!("id,caption\n{csv}").as_bytes())), &usable);
        let cells: Vec<UrlAndText> = texts.iter().map(|text| (None, Some(text.as_bytes()))).collect();
        prop_assert_eq!(&blocking(captions("x.parquet", &parquet_file(&[&cells]))), &usable);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(kind in 0usize..6, bytes in proptest::collection::vec(any::<u8>(), 0..300), at in any::<proptest::sample::Index>()) {
        let files = ["a.jsonl", "a.csv", "a.tsv", "a.json", "a.parquet", "a"];
        let whole: [&[u8]; 6] = [TWO_LINES, b"caption,url\n\"a\",b\nc,d\n", b"a\thttp://u\nc\thttp://v\n",
            b"{\"images\": [{\"id\": 1}], \n\"annotations\": [{\"caption\": \"a\"}]}",
            &parquet_file(&[&[(Some(b"u"), Some(b"a")), (None, Some(b"b"))]]), &gzip(TWO_LINES)];
        let mut damaged = whole[kind].to_vec();
        let at = at.index(damaged.len());
        let end = (at + bytes.len() % 4 + 1).min(damaged.len());
        damaged.splice(at..end, bytes.iter().take(3).copied());
        for bytes in [&bytes, &damaged] {
            let folder = Folder::with(&[(files[kind], bytes)]);
            let _ = blocking(records_of(folder.corpus(files[kind]), false));
        }
    }
}
