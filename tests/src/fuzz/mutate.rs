//! Mutations of an input: the same seed gives the same ones.

/// Longest input in bytes.
const MAX_BYTES: usize = 64 << 10;

/// Words that readers look for, in their order of interest.
const WORDS: [&[u8]; 24] = [
    b"PAR1",
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"GGUF",
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
    b"{\"",
    b"\":",
    b"[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":",
    b"\\ud800",
    b"\n%%\n",
    b"\r\n",
    b"\"\"",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x98\x80",
    b"&amp;amp;lt;",
    b"\xc3\xa2\xe2\x82\xac",
    b"caption",
    b"annotations",
    b"- &a *a !!b ",
    b"1e999",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
];

/// SplitMix64: small, and good enough to choose bytes.
pub struct Rng(u64);

impl Rng {
    /// Streams of different `stream` are independent.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Rng(seed);
        Rng(rng.next() ^ stream.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// One of `inputs`, with one to eight changes.
pub fn mutate(rng: &mut Rng, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut data = inputs[rng.below(inputs.len())].clone();
    for _ in 0..=rng.below(8) {
        change(rng, &mut data, inputs);
        data.truncate(MAX_BYTES);
    }
    data
}

fn change(rng: &mut Rng, data: &mut Vec<u8>, inputs: &[Vec<u8>]) {
    let at = rng.below(data.len() + 1);
    let some = 1 + rng.below(32);
    let end = (at + some).min(data.len());
    match rng.below(12) {
        0..=2 if at < data.len() => data[at] ^= 1 << rng.below(8),
        3 if at < data.len() => data[at] = rng.next() as u8,
        4 => overwrite(data, at, &number(rng, data.len())),
        5 => overwrite(data, at, WORDS[rng.below(WORDS.len())]),
        6 => drop(data.splice(at..at, WORDS[rng.below(WORDS.len())].iter().copied())),
        7 => drop(data.drain(at..end)),
        8 => {
            let part = data[at..end].to_vec();
            let most = if rng.below(20) == 0 { 2_000 } else { 8 };
            let times = 1 + rng.below(most);
            data.splice(at..at, part.repeat(times));
        }
        9 => {
            let other = &inputs[rng.below(inputs.len())];
            let from = rng.below(other.len() + 1);
            let to = (from + rng.below(200)).min(other.len());
            data.splice(at..end, other[from..to].iter().copied());
        }
        10 if rng.below(4) == 0 => data.truncate(at),
        _ => drop(data.splice(at..at, (0..some % 8).map(|n| (n as u8).wrapping_mul(37)))),
    }
}

/// A length field: what programs count wrong, in both orders of bytes or as a varint.
fn number(rng: &mut Rng, length: usize) -> Vec<u8> {
    let values = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 40, u64::MAX >> 1, u64::MAX];
    let near = [length as u64, length as u64 + 1, (length as u64).saturating_sub(1)];
    let value = if rng.below(5) == 0 { near[rng.below(3)] } else { values[rng.below(values.len())] };
    let width = [1, 2, 4, 8][rng.below(4)];
    match rng.below(3) {
        0 => value.to_be_bytes()[8 - width..].to_vec(),
        1 => varint(value),
        _ => value.to_le_bytes()[..width].to_vec(),
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn overwrite(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = (at + bytes.len()).min(data.len());
    data.splice(at..end, bytes.iter().copied());
}
