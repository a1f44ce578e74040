//! Owns the secrets between the lab and a boot of a board: the hash of the board's, and the token that the lab gives for it.
//! Never stores or logs one.
//!
//! The agent draws a secret at power-on, shows its SHA-256 on the board's console, and the secret itself only to the lab. Keys on
//! a board's card would take the secret's place in [`Claim`].

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::identity::Claim;

/// What the agent writes on the console before the hash.
const SHOWN: &str = "hearth: check-in ";

/// SHA-256 in hexadecimal digits, of a secret or a token.
pub(super) fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

/// The hash that a line of a board's console shows, which must be the board's own line and none of a job's.
pub(super) fn shown(line: &str) -> Option<&str> {
    let at = line.find(SHOWN)? + SHOWN.len();
    let digits = line.get(at..)?.trim_end();
    let is_hash = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash.then_some(digits)
}

/// 256 random bits, in hexadecimal digits.
pub(super) fn random() -> Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(hex::encode(bytes))
}

/// The bearer token of a boot: 128 bits that follow only from the lab's key and the board's secret. It is the
/// same when the board checks in again. A board without a secret gets a token of `drawn`, another one each time.
pub(super) fn token(key: &str, drawn: &str, claim: &Claim) -> String {
    let secret = match claim.secret.as_str() {
        "" => drawn,
        secret => secret,
    };
    let mut token = Sha256::new();
    for part in [key, secret, &claim.board, &claim.boot] {
        token.update(part.len().to_le_bytes());
        token.update(part);
    }
    hex::encode(&token.finalize()[..16])
}

/// The operator's token: 256 bits that follow only from the lab's key.
pub(super) fn operator_token(key: &str) -> String {
    hash(&format!("operator {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_found_in_a_line_of_the_journal_and_a_torn_one_is_not() {
        let hash = hash("x");
        assert_eq!(shown(&format!("hearth: check-in {hash}")), Some(&*hash));
        assert_eq!(
            shown(&format!("[ 9.1] agent[3]: hearth: check-in {hash}")),
            Some(&*hash)
        );
        assert_eq!(
            shown(&format!("hearth: check-in {}[ 9.1] usb", &hash[..40])),
            None
        );
        assert_eq!(shown(&format!("hearth: check-in {hash}0")), None);
    }

    #[test]
    fn a_token_is_the_secrets_own() {
        let claim = |secret: &str| Claim {
            secret: secret.into(),
            boot: "a".into(),
            ..Claim::default()
        };
        let token = |key, secret| token(key, &random().unwrap(), &claim(secret));
        assert_eq!(token("k", "s"), token("k", "s"));
        assert_ne!(token("k", "s"), token("k", "t"));
        assert_ne!(token("k", "s"), token("l", "s"));
        assert_ne!(token("k", ""), token("k", ""));
    }
}
