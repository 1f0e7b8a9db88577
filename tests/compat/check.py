"""Reads a data set with the readers that people use, and compares what they find.

    python tests/compat/check.py DATASET

DATASET holds README.md and any of data/ (Parquet), webdataset/ and original/. Prints a line per reader; exits
with 1 at the first reader that fails or disagrees. Needs the packages of requirements.txt, and no network.
"""

import argparse
import glob
import io
import json
import math
import os
import re
import sys
import tarfile
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image

SPLITS = ["train", "validation", "test"]
SCORES = ["clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image"]
FLOATS = ["p2p_threshold", "cfg_scale", *SCORES]
TEXTS = ["original_prompt", "edit_prompt", "edited_prompt"]
TIMBROOKS = ["original_prompt", "original_image", "edit_prompt", "edited_prompt", "edited_image"]
DIFFUSERS = ["input_image", "edit_prompt", "edited_image"]


def check(condition, problem):
    if not condition:
        raise AssertionError(problem)


def fact(source, before, after):
    """What every reader must agree on for a pair, from a mapping with the names of the Parquet columns."""
    facts = {name: source[name] for name in [*TEXTS, "seed", *FLOATS]}
    for name in FLOATS:
        check(isinstance(facts[name], float), f"{name} of seed {facts['seed']} is {facts[name]!r}, not a float")
    return {**facts, "before": bytes(before), "after": bytes(after)}


def by_split(pattern):
    """Split -> its files, in order; splits without files are left out."""
    found = {split: sorted(glob.glob(str(pattern).format(split=split))) for split in SPLITS}
    return {split: files for split, files in found.items() if files}


class Parquet:
    """data/{split}-NNNNN-of-MMMMM.parquet"""

    def __init__(self, root):
        self.root = root
        self.files = by_split(root / "data" / "{split}-*-of-*.parquet")

    def read_pyarrow(self):
        """Every file on its own: schema, metadata, names, compression; returns the pairs by split and id."""
        found = {}
        listed = sorted(path for files in self.files.values() for path in files)
        check(listed == sorted(map(str, (self.root / "data").iterdir())), "data/ holds other files than shards")
        for split, files in self.files.items():
            found[split] = {}
            for number, path in enumerate(files):
                check(Path(path).name == f"{split}-{number:05}-of-{len(files):05}.parquet", f"{path} is misnamed")
                for row in self.read_file(path).to_pylist():
                    before, after = (row[name] for name in self.image_columns)
                    check(row["pair_id"] not in found[split], f"pair {row['pair_id']} is there twice")
                    found[split][row["pair_id"]] = fact(row, before["bytes"], after["bytes"])
        return found

    def read_file(self, path):
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        check(json.loads(file.metadata.metadata[b"huggingface"])["info"]["features"] == features, f"{path}: two features")
        check(list(features) == schema.names, f"{path}: features and columns differ")
        self.image_columns = [name for name in schema.names if features[name]["_type"] == "Image"]
        image = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
        for name in self.image_columns:
            check(schema.field(name).type == image, f"{path}: {name} is {schema.field(name).type}")
            check(schema.field(name).nullable, f"{path}: {name} is not nullable")
        for group in range(file.metadata.num_row_groups):
            columns = file.metadata.row_group(group)
            for column in (columns.column(i) for i in range(columns.num_columns)):
                if column.path_in_schema.endswith(".bytes"):
                    check(column.compression == "UNCOMPRESSED", f"{path}: images are compressed again")
                    check(not column.has_dictionary_page, f"{path}: images have a dictionary")
        return file.read()

    def read_datasets(self, cache):
        """By the card's own configuration: `load_dataset(DATASET)`."""
        loaded = datasets.load_dataset(str(self.root), cache_dir=cache)
        check(set(loaded) == set(self.files), f"splits {set(loaded)}, but files for {set(self.files)}")
        found = {}
        for split, rows in loaded.items():
            for name in self.image_columns:
                check(isinstance(rows.features[name], datasets.Image), f"{name} is {rows.features[name]}")
            decoded = rows[0]
            check(all(isinstance(decoded[name], Image.Image) for name in self.image_columns), "images do not decode")
            for name in self.image_columns:
                decoded[name].load()
            raw = rows
            for name in self.image_columns:
                raw = raw.cast_column(name, datasets.Image(decode=False))
            pairs = {}
            for row in raw:
                before, after = (row[name]["bytes"] for name in self.image_columns)
                pairs[row["pair_id"]] = fact(row, before, after)
            found[split] = pairs
        return found

    def check_trainer_rule(self, cache):
        """The diffusers InstructPix2Pix trainer: columns 0, 1, 2 are image, instruction, image, unless their names
        are given. The timbrooks profile must be trainable by its names."""
        rows = datasets.load_dataset(str(self.root), cache_dir=cache)[next(iter(self.files))]
        names = rows.column_names
        if names[:3] == DIFFUSERS:
            original, instruction, edited = names[0], names[1], names[2]
        else:
            check(names[:5] == TIMBROOKS, f"columns {names[:5]} are neither profile")
            original, instruction, edited = "original_image", "edit_prompt", "edited_image"
        example = rows[0]
        for name in (original, edited):
            pixels = example[name].convert("RGB").resize((32, 32))
            check(pixels.size == (32, 32), f"{name} does not decode")
        check(isinstance(example[instruction], str), f"{instruction} is not text")
        return f"columns {original}, {instruction}, {edited}"


class WebDataset:
    """webdataset/{split}-NNNNNN.tar"""

    def __init__(self, root):
        self.files = by_split(root / "webdataset" / "{split}-*.tar")

    @staticmethod
    def images(keys):
        """The names of the two image members, whatever their format."""
        found = [next(k for k in keys if re.fullmatch(rf"{name}\.(jpg|png|webp)", k)) for name in ("original_image", "edited_image")]
        return found

    def pair(self, facts, prompt, before, after):
        check(facts["edit_prompt"] == prompt, f"edit_prompt.txt of pair {facts['pair_id']} differs from its .json")
        check(None not in facts.values(), f"pair {facts['pair_id']} has a null")
        return facts["pair_id"], fact(facts, before, after)

    def check_tars(self):
        """The tar files themselves: headers that do not depend on the run, members of a sample together."""
        samples = 0
        for path in (path for files in self.files.values() for path in files):
            keys = []
            with tarfile.open(path) as tar:
                for member in tar:
                    plain = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
                    check(plain == (0, 0, 0, "", "", 0o644), f"{path}: {member.name} has the header {plain}")
                    check(member.isfile() and "/" not in member.name, f"{path}: {member.name} is not a plain file")
                    keys.append(member.name.split(".", 1)[0])
            groups = [key for key, before in zip(keys, [None, *keys]) if key != before]
            check(len(groups) == len(set(groups)), f"{path}: a sample's members are apart")
            check(all(keys.count(key) == 4 for key in groups[:50]), f"{path}: a sample has not four members")
            samples += len(groups)
        return f"{samples} samples"

    def read_webdataset(self):
        found = {}
        for split, files in self.files.items():
            found[split] = {}
            for sample in webdataset.WebDataset(files, shardshuffle=False):
                before, after = (sample[name] for name in self.images(sample))
                pair, facts = self.pair(json.loads(sample["json"]), sample["edit_prompt.txt"].decode(), before, after)
                check(pair not in found[split], f"pair {pair} is there twice")
                found[split][pair] = facts
            first = next(iter(webdataset.WebDataset(files, shardshuffle=False).decode("pil")))
            check(all(isinstance(first[name], Image.Image) for name in self.images(first)), "images do not decode")
        return found

    def read_datasets(self, cache):
        loaded = datasets.load_dataset("webdataset", data_files=self.files, cache_dir=cache)
        found = {}
        for split, rows in loaded.items():
            names = self.images(rows.column_names)
            decoded = rows[0]
            check(all(isinstance(decoded[name], Image.Image) for name in names), "images do not decode")
            for name in FLOATS:
                check(rows.features["json"][name].dtype == "float64", f"{name} is {rows.features['json'][name]}")
            raw = rows
            for name in names:
                raw = raw.cast_column(name, datasets.Image(decode=False))
            pairs = (self.pair(row["json"], row["edit_prompt.txt"], *(row[name]["bytes"] for name in names)) for row in raw)
            found[split] = dict(pairs)
        return found


class EditDataset:
    """`edit_dataset.EditDataset` of the original, as far as it finds and opens files: the same arguments, defaults, assertions,
    arithmetic and names."""

    def __init__(self, path, split="train", splits=(0.9, 0.05, 0.05)):
        assert split in ("train", "val", "test")
        assert sum(splits) == 1
        self.path = Path(path)
        seeds = json.loads((self.path / "seeds.json").read_text())
        start, end = {
            "train": (0.0, splits[0]),
            "val": (splits[0], splits[0] + splits[1]),
            "test": (splits[0] + splits[1], 1.0),
        }[split]
        self.seeds = seeds[math.floor(start * len(seeds)) : math.floor(end * len(seeds))]

    def __len__(self):
        return len(self.seeds)

    def open(self, i):
        """Folder, and seed and images of each of its pairs; the original draws one of the seeds."""
        name, seeds = self.seeds[i]
        folder = self.path / name
        check("edit" in json.loads((folder / "prompt.json").read_text()), f"{folder}: no edit")
        return folder, [(seed, [Image.open(folder / f"{seed}_{n}.jpg") for n in (0, 1)]) for seed in seeds]


class Original:
    """original/seeds.json and a folder per triplet."""

    NAMES = {"train": "train", "val": "validation", "test": "test"}

    def __init__(self, root, stats):
        self.root = root / "original"
        self.card = (root / "README.md").read_text()
        self.image = stats["drawing"]["image"]["kind"]
        self.extension = {"jpeg": "jpg"}.get(self.image, self.image)

    def splits(self):
        """The `splits` that the card says; none where the default does."""
        said = re.search(r"splits=\(([^)]*)\)", self.card)
        return {"splits": tuple(map(float, said[1].split(", ")))} if said else {}

    def read_loader(self):
        """The original's loader, called as the card says; a card that names no call says why."""
        call = re.search(r'EditDataset\("DATASET/original", (.*)\)', self.card)
        if self.image != "jpeg":
            check(call is None and "reads JPEG only" in self.card, f"the card does not say that the loader cannot read {self.image}")
            rows = EditDataset(self.root, next(split for split in self.NAMES if self.of(split)), **self.splits())
            try:
                rows.open(0)
            except FileNotFoundError:
                return f"cannot read {self.image}, as the card says"
            check(False, f"the loader reads {self.image}")
        arguments = eval(f"dict({call[1]})")
        check(arguments.get("splits") == self.splits().get("splits"), "the card says two different splits")
        rows = EditDataset(self.root, **arguments)
        check(len(rows) > 0, f"nothing in the split of {arguments}")
        for i in range(len(rows)):
            for seed, images in rows.open(i)[1]:
                check(all(image.convert("RGB").resize((32, 32)) for image in images), f"{seed} does not decode")
        return f"{len(rows)} edits with {call[1]}"

    def of(self, split):
        return EditDataset(self.root, split, **self.splits()).seeds

    def read(self):
        """Every folder of every split that the loader cuts."""
        text = (self.root / "seeds.json").read_text()
        seeds = json.loads(text)
        check(seeds == sorted(seeds), "seeds.json is not sorted")
        check(json.dumps(seeds) == text, "seeds.json is not in json.dumps' form")
        folders = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        check(folders == [name for name, _ in seeds], "seeds.json lists other folders than there are")
        found = {}
        for split, ours in self.NAMES.items():
            pairs = [pair for name, listed in self.of(split) for pair in self.read_folder(name, listed)]
            if pairs:
                found[ours] = pairs
        return found

    def read_folder(self, name, listed):
        folder = self.root / name
        prompt = json.loads((folder / "prompt.json").read_text())
        check(prompt["input"] == prompt["caption"], f"{folder}: input and caption differ")
        lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        check([list(line) for line in lines] == [["seed", *FLOATS]] * len(lines), f"{folder}: keys of metadata.jsonl")
        by_seed = {str(line["seed"]): line for line in lines}
        check(sorted(by_seed) == sorted(listed) and len(lines) == len(listed), f"{folder}: metadata.jsonl and seeds.json differ")
        ranks = [(line["clip_sim_dir"], line["seed"]) for line in lines]
        check(ranks == sorted(ranks, reverse=True), f"{folder}: metadata.jsonl is not best first")
        images = sorted(path.name for path in folder.iterdir() if path.suffix not in (".json", ".jsonl"))
        names = sorted(f"{seed}_{n}.{self.extension}" for seed in listed for n in (0, 1))
        check(images == names, f"{folder}: {images} are not the images of its seeds")
        check([f.rsplit("_", 1)[0] for f in images if f.endswith(f"_0.{self.extension}")] == listed, f"{folder}: order of seeds")
        for seed in listed:
            before, after = (folder / f"{seed}_{n}.{self.extension}" for n in (0, 1))
            for path in (before, after):
                with Image.open(path) as image:
                    check(image.format.lower() == self.image, f"{path} is {image.format}")
                    image.convert("RGB").resize((32, 32))
            texts = dict(zip(TEXTS, (prompt["input"], prompt["edit"], prompt["output"])))
            yield fact({**by_seed[seed], **texts}, before.read_bytes(), after.read_bytes())


def comparable(found):
    """Split -> the sorted facts of its pairs, without ids (the original layout has none)."""
    order = lambda facts: (*(facts[name] for name in TEXTS), facts["seed"])
    return {split: sorted(pairs.values() if isinstance(pairs, dict) else pairs, key=order) for split, pairs in found.items()}


def count(found):
    return ", ".join(f"{split} {len(pairs)}" for split, pairs in found.items())


def check_splits(found):
    """No triplet in two splits."""
    seen = {}
    for split, pairs in found.items():
        for facts in pairs:
            triplet = tuple(facts[name] for name in TEXTS)
            check(seen.setdefault(triplet, split) == split, f"{triplet} is in {seen[triplet]} and in {split}")
    return f"{len(seen)} triplets"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    root = parser.parse_args().dataset
    stats = json.loads((root / "stats.json").read_text())
    results = {}

    def reader(name, read):
        try:
            found = read()
            if isinstance(found, dict):
                results[name] = comparable(found)
                found = count(found)
        except Exception as problem:
            sys.exit(f"FAILED {name}: {type(problem).__name__}: {problem}")
        print(f"ok {name}: {found}")

    with tempfile.TemporaryDirectory() as cache:
        if (root / "data").is_dir():
            parquet = Parquet(root)
            reader("pyarrow, parquet", parquet.read_pyarrow)
            reader("datasets, parquet by the card", lambda: parquet.read_datasets(cache))
            reader("diffusers trainer's rule", lambda: parquet.check_trainer_rule(cache))
        if (root / "webdataset").is_dir():
            tars = WebDataset(root)
            reader("tarfile, webdataset", tars.check_tars)
            reader("webdataset.WebDataset", tars.read_webdataset)
            reader("datasets, webdataset", lambda: tars.read_datasets(cache))
        if (root / "original").is_dir():
            original = Original(root, stats)
            reader("the original's loader", original.read_loader)
            reader("the original's layout", original.read)

    check(results, f"{root} holds no format")
    (first, expected), *others = results.items()
    for name, found in others:
        reader(f"{name} = {first}", lambda: check(found == expected, "they differ") or "same pairs, texts, scores and image bytes")
    reader("splits", lambda: check_splits(expected))
    said = {entry["split"]: entry["pairs"] for entry in stats["splits"] if entry["pairs"]}
    reader("stats.json", lambda: check(said == {s: len(p) for s, p in expected.items()}, f"it says {said}") or "same counts")


if __name__ == "__main__":
    main()
