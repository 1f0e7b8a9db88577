//! Who may look. On loopback whoever can reach it, if the browser was pointed there on purpose; anywhere else who has
//! signed in with the run's token.

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use std::net::{IpAddr, SocketAddr};

/// Name of the cookie of those who have signed in.
const COOKIE_NAME: &str = "ip2p";
/// Separates the cookie from all else that is made of the token. The cookie cannot be turned back into the token, and
/// opens nothing but the page.
const CONTEXT: &str = "ip2p-coordinator 2026 page sign-in cookie";

/// The rule of one address.
#[derive(Clone)]
pub enum Access {
    /// No token. The `Host` must be this machine's own name for itself: a page elsewhere whose name was pointed here
    /// (DNS rebinding) has another.
    Loopback,
    Token {
        token: blake3::Hash,
        cookie: String,
        /// Over TLS: the browser sends the cookie nowhere else.
        secure: bool,
    },
}

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The address in the browser is not one of this machine's own.
    WrongHost,
    /// A form of another page.
    WrongOrigin,
    /// No sign-in yet.
    SignIn,
}

impl Access {
    /// The rule for `address`; `None` when it needs a token and there is none.
    pub fn of(address: SocketAddr, token: Option<&str>, tls: bool) -> Option<Self> {
        if address.ip().is_loopback() {
            return Some(Access::Loopback);
        }
        let token = token?;
        let cookie = blake3::Hash::from_bytes(blake3::derive_key(CONTEXT, token.as_bytes())).to_hex().to_string();
        Some(Access::Token { token: blake3::hash(token.as_bytes()), cookie, secure: tls })
    }

    /// Whether a request may go on. `changes` is true of those that are not mere reading.
    pub fn check(&self, headers: &HeaderMap, changes: bool) -> Result<(), Refusal> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if matches!(self, Access::Loopback) && !is_here(host) {
            return Err(Refusal::WrongHost);
        }
        if changes && !same_origin(headers, host) {
            return Err(Refusal::WrongOrigin);
        }
        match self {
            Access::Loopback => Ok(()),
            Access::Token { token, cookie, .. } => {
                // Hashes are compared in constant time.
                let expected = blake3::hash(cookie.as_bytes());
                let signed_in = cookies(headers).any(|shown| blake3::hash(shown.as_bytes()) == expected);
                // Programs such as Prometheus show the token itself.
                let shown = headers.get(AUTHORIZATION).and_then(|shown| shown.to_str().ok()?.strip_prefix("Bearer "));
                let has_token = shown.is_some_and(|shown| blake3::hash(shown.trim().as_bytes()) == *token);
                if signed_in || has_token { Ok(()) } else { Err(Refusal::SignIn) }
            }
        }
    }

    /// The `Set-Cookie` for who shows the right token.
    pub fn sign_in(&self, shown: &str) -> Option<String> {
        match self {
            Access::Loopback => None,
            Access::Token { token, cookie, .. } => (blake3::hash(shown.trim().as_bytes()) == *token).then(|| self.set_cookie(cookie, "")),
        }
    }

    /// The `Set-Cookie` that signs out.
    pub fn sign_out(&self) -> String {
        self.set_cookie("", "; Max-Age=0")
    }

    pub fn needs_token(&self) -> bool {
        matches!(self, Access::Token { .. })
    }

    fn set_cookie(&self, value: &str, more: &str) -> String {
        let secure = if matches!(self, Access::Token { secure: true, .. }) { "; Secure" } else { "" };
        format!("{COOKIE_NAME}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{more}")
    }
}

/// `localhost`, `127.0.0.1`, `[::1]` and their like, with any port: it may be forwarded from another.
fn is_here(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Programs that are no browsers send no `Origin`.
fn same_origin(headers: &HeaderMap, host: &str) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    origin.to_str().is_ok_and(|origin| origin.split_once("://").is_some_and(|(_, name)| name.eq_ignore_ascii_case(host)))
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(COOKIE).into_iter().filter_map(|cookies| cookies.to_str().ok()).flat_map(|cookies| cookies.split(';'));
    all.filter_map(|cookie| cookie.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn on_loopback_only_its_own_names_are_answered() {
        let access = Access::of("127.0.0.1:8080".parse().unwrap(), None, false).unwrap();
        for host in ["localhost:8080", "LOCALHOST", "127.0.0.1:9", "127.1.2.3", "[::1]:8080"] {
            assert_eq!(access.check(&headers(&[("host", host)]), false), Ok(()), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1:8080", "[::2]"] {
            assert_eq!(access.check(&headers(&[("host", host)]), false), Err(Refusal::WrongHost), "{host}");
        }
    }

    #[test]
    fn forms_of_other_pages_change_nothing() {
        let access = Access::of("127.0.0.1:8080".parse().unwrap(), None, false).unwrap();
        let check = |origin| access.check(&headers(&[("host", "localhost:8080"), ("origin", origin)]), true);
        assert_eq!(check("http://localhost:8080"), Ok(()));
        for origin in ["http://localhost:8081", "https://evil.example", "null"] {
            assert_eq!(check(origin), Err(Refusal::WrongOrigin), "{origin}");
        }
        assert_eq!(access.check(&headers(&[("host", "localhost:8080")]), true), Ok(()));
    }

    #[test]
    fn elsewhere_the_token_opens_and_nothing_else() {
        let address: SocketAddr = "0.0.0.0:8080".parse().unwrap();
        assert!(Access::of(address, None, false).is_none());
        let access = Access::of(address, Some("s3cret"), true).unwrap();
        assert_eq!(access.check(&headers(&[("host", "gpu:8080")]), false), Err(Refusal::SignIn));
        assert_eq!((access.sign_in(""), access.sign_in("s3cre"), access.sign_in("s3crett")), (None, None, None));
        let cookie = access.sign_in(" s3cret\n").unwrap();
        for part in ["; HttpOnly", "; SameSite=Strict", "; Secure", "; Path=/"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        assert!(!cookie.contains("s3cret"), "the cookie is not the token");
        let pair = cookie.split(';').next().unwrap();
        assert_eq!(access.check(&headers(&[("cookie", &format!("a=b; {pair}; c=d"))]), false), Ok(()));
        for wrong in ["ip2p=", "ip2p=s3cret", "ip2p2=x", &pair[..pair.len() - 1]] {
            assert_eq!(access.check(&headers(&[("cookie", wrong)]), false), Err(Refusal::SignIn), "{wrong}");
        }
        assert_eq!(access.check(&headers(&[("authorization", "Bearer s3cret")]), false), Ok(()));
        for wrong in ["Bearer ", "Bearer s3cre", "Basic s3cret", "s3cret"] {
            assert_eq!(access.check(&headers(&[("authorization", wrong)]), false), Err(Refusal::SignIn), "{wrong}");
        }
        assert!(access.sign_out().starts_with("ip2p=;") && access.sign_out().contains("Max-Age=0"));
    }
}
