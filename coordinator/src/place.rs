//! Where something is, as a person or a Python program can use it.

use std::fmt;

/// An absolute local path, or a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place(String);

impl Place {
    /// `file://./out/a` becomes `/where/it/is/out/a`; other URLs stay.
    pub fn of(url: &str) -> Self {
        let local = url.strip_prefix("file://").and_then(|path| std::path::absolute(path).ok());
        Place(local.map_or_else(|| url.to_string(), |path| path.display().to_string()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_places_are_absolute_paths() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(Place::of("file://./out/a").to_string(), here.join("out/a").display().to_string());
        assert_eq!(Place::of("file:///data/out").to_string(), "/data/out");
        assert_eq!(Place::of("s3://bucket/run").to_string(), "s3://bucket/run");
    }
}
