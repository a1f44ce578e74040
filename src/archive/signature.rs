//! Owns the check of OpenPGP cleartext signatures against a keyring. Never trusts a byte outside
//! the signed text.

use std::path::Path;

use anyhow::Context;
use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, PublicParams, Tag, VerifyingKey};
use thiserror::Error;

use crate::error::Fault;
use crate::input;

/// Tolerance for clock skew: a signature may be this many seconds in the future.
const CLOCK_SKEW: u64 = 24 * 3600;

/// Public keys that may sign releases.
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
}

/// Why a signed text is rejected.
#[derive(Debug, Error)]
pub enum SignatureError {
    #[error("it is not an OpenPGP cleartext-signed message: {0}")]
    Malformed(String),
    #[error("its signature does not match its text: it was changed after it was signed")]
    Tampered,
    #[error("it is signed by {0}, which the keyring does not have")]
    UnknownKey(String),
    #[error("the signature by key {key} does not count: {reason}")]
    Unfit { key: String, reason: String },
    /// As [`SignatureError::Unfit`], but only because a key or signature has expired.
    #[error("the signature by key {key} has expired: {reason}")]
    Expired { key: String, reason: String },
}

/// A verified text and its signers.
#[derive(Clone, Debug)]
pub struct SignedText {
    /// Exactly the signed text, with `
    /// ` line ends.
    pub text: String,
    /// Fingerprints of the keys with good signatures, in hex.
    pub signers: Vec<String>,
}

impl Keyring {
    /// Reads a keyring, binary or armoured.
    ///
    /// # Errors
    /// If it is missing or contains no key.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let data = input::read(path)
            .with_context(|| format!("cannot read the keyring {}", path.display()))?;
        Keyring::parse(&data)
            .ok_or_else(|| Fault::input(format!("{} holds no OpenPGP key", path.display())).into())
    }

    /// `None` if `data` contains no key. Unknown packets are skipped.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let keys: Vec<_> = if data.starts_with(b"-----") {
            let (keys, _) = SignedPublicKey::from_armor_many(data).ok()?;
            keys.filter_map(Result::ok).collect()
        } else {
            SignedPublicKey::from_bytes_many(data)
                .ok()?
                .filter_map(Result::ok)
                .collect()
        };
        (!keys.is_empty()).then_some(Keyring { keys })
    }

    /// Checks a cleartext-signed message (RFC 9580, section 7): at least one signature must be
    /// good, by a key of this keyring that is neither expired nor revoked, and none by a key of
    /// this keyring may be bad.
    ///
    /// `now` is in seconds since 1970. With `even_expired`, signatures and keys are accepted that
    /// had not expired when the signature was made.
    ///
    /// ```
    /// use hearth::archive::{Keyring, SignatureError};
    ///
    /// let keyring = Keyring::load("fixtures/signature/key.asc".as_ref())?;
    /// let message = std::fs::read_to_string("fixtures/signature/InRelease")?;
    /// let now = 1_750_000_000;
    /// let signed = keyring.verify(message.as_bytes(), now, false)?;
    /// assert!(signed.text.starts_with("Suite: stable\n"));
    ///
    /// let changed = message.replace("Suite: stable", "Suite: unstable");
    /// let refused = keyring.verify(changed.as_bytes(), now, false);
    /// assert!(matches!(refused, Err(SignatureError::Tampered)));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn verify(
        &self,
        message: &[u8],
        now: u64,
        even_expired: bool,
    ) -> Result<SignedText, SignatureError> {
        let message = std::str::from_utf8(message)
            .map_err(|error| SignatureError::Malformed(error.to_string()))?;
        let (message, _) = CleartextSignedMessage::from_string(message)
            .map_err(|error| SignatureError::Malformed(error.to_string()))?;
        let text = message.signed_text();
        let mut signers = Vec::new();
        let mut unknown = Vec::new();
        let mut unfit = None;
        for signature in message.signatures() {
            match self.signer(signature) {
                None => unknown.push(issuer(signature)),
                Some(signer) => match signer.check(signature, now, even_expired) {
                    Err(error) => unfit = Some(error),
                    Ok(()) if signer.has_signed(signature, text.as_bytes()) => {
                        signers.push(signer.fingerprint());
                    }
                    Ok(()) => return Err(SignatureError::Tampered),
                },
            }
        }
        if signers.is_empty() {
            return Err(unfit.unwrap_or_else(|| match unknown.is_empty() {
                true => SignatureError::Malformed("it has no signature".into()),
                false => SignatureError::UnknownKey(format!("key {}", unknown.join(" and "))),
            }));
        }
        Ok(SignedText {
            text: text.replace("\r\n", "\n"),
            signers,
        })
    }

    /// The key that a signature claims as its issuer.
    fn signer(&self, signature: &Signature) -> Option<Signer<'_>> {
        self.keys.iter().find_map(|primary| {
            if is_issuer(signature, &primary.primary_key) {
                return Some(Signer {
                    primary,
                    subkey: None,
                });
            }
            primary
                .public_subkeys
                .iter()
                .find(|subkey| is_issuer(signature, &subkey.key))
                .map(|subkey| Signer {
                    primary,
                    subkey: Some(subkey),
                })
        })
    }
}

fn is_issuer(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        let id = key.legacy_key_id();
        signature.issuer_key_id().into_iter().any(|i| *i == id)
    } else {
        fingerprints.contains(&&key.fingerprint())
    }
}

fn issuer(signature: &Signature) -> String {
    let fingerprint = signature
        .issuer_fingerprint()
        .first()
        .map(|f| f.to_string());
    let id = || signature.issuer_key_id().first().map(|id| id.to_string());
    fingerprint
        .or_else(id)
        .map_or_else(|| "without a name".into(), |name| name.to_uppercase())
}

/// The key that made a signature: the primary key or one of its subkeys.
struct Signer<'a> {
    primary: &'a SignedPublicKey,
    subkey: Option<&'a SignedPublicSubKey>,
}

/// A period of validity: from creation to expiry, both in seconds since 1970.
struct Span {
    from: u64,
    until: Option<u64>,
}

impl Signer<'_> {
    fn fingerprint(&self) -> String {
        match self.subkey {
            Some(subkey) => subkey.key.fingerprint(),
            None => self.primary.primary_key.fingerprint(),
        }
        .to_string()
        .to_uppercase()
    }

    fn has_signed(&self, signature: &Signature, text: &[u8]) -> bool {
        matches!(
            signature.typ(),
            Some(SignatureType::Text | SignatureType::Binary)
        ) && match self.subkey {
            Some(subkey) => signature.verify(&subkey.key, text).is_ok(),
            None => signature.verify(&self.primary.primary_key, text).is_ok(),
        }
    }

    /// Checks that the key was allowed to make the signature, and that both are valid now.
    fn check(
        &self,
        signature: &Signature,
        now: u64,
        even_expired: bool,
    ) -> Result<(), SignatureError> {
        let unfit = |reason: &str| SignatureError::Unfit {
            key: self.fingerprint(),
            reason: reason.into(),
        };
        if !is_strong(signature) {
            return Err(unfit("its hash algorithm is broken"));
        }
        let made = created(signature).ok_or_else(|| unfit("it has no date"))?;
        if made > now + CLOCK_SKEW {
            return Err(unfit(
                "it is dated in the future; is this host's clock right?",
            ));
        }
        let at = if even_expired { made } else { now };
        let primary = self.primary_span().map_err(unfit)?;
        let used = match self.subkey {
            Some(subkey) => self.subkey_span(subkey).map_err(unfit)?,
            None => Span {
                from: primary.from,
                until: primary.until,
            },
        };
        let signature_until = signature
            .signature_expiration_time()
            .map(|time| u64::from(time.as_secs()))
            .filter(|seconds| *seconds > 0)
            .map(|seconds| made + seconds);
        if made + CLOCK_SKEW < primary.from.max(used.from) {
            return Err(unfit("it is older than the key"));
        }
        let over = |until: Option<u64>| until.is_some_and(|until| until <= at);
        for (until, what) in [
            (
                primary.until,
                "its primary key was valid for a limited time",
            ),
            (used.until, "the key was valid for a limited time"),
            (signature_until, "it was valid for a limited time"),
        ] {
            if over(until) {
                return Err(SignatureError::Expired {
                    key: self.fingerprint(),
                    reason: what.into(),
                });
            }
        }
        Ok(())
    }

    /// The primary key's validity by its newest valid self-signature; fails if it has none.
    fn primary_span(&self) -> Result<Span, &'static str> {
        let key = &self.primary.primary_key;
        let details = &self.primary.details;
        if !is_strong_key(key) {
            return Err("its key is too short or of a broken algorithm");
        }
        let revoked = details
            .revocation_signatures
            .iter()
            .any(|revocation| revocation.verify_key(key).is_ok());
        if revoked {
            return Err("its key was revoked");
        }
        let direct = details
            .direct_signatures
            .iter()
            .filter(|signature| is_strong(signature) && signature.verify_key(key).is_ok());
        let of_users = details.users.iter().flat_map(|user| {
            user.signatures.iter().filter(move |signature| {
                signature.typ() != Some(SignatureType::CertRevocation)
                    && is_strong(signature)
                    && signature
                        .verify_certification(key, Tag::UserId, &user.id)
                        .is_ok()
            })
        });
        let newest = direct
            .chain(of_users)
            .max_by_key(|signature| created(signature))
            .ok_or("its key has no good self-signature")?;
        if self.subkey.is_none() && !newest.key_flags().sign() {
            return Err("its key is not for signing");
        }
        Ok(span(key, newest))
    }

    /// The subkey's validity by its newest valid binding signature.
    fn subkey_span(&self, subkey: &SignedPublicSubKey) -> Result<Span, &'static str> {
        let primary = &self.primary.primary_key;
        if !is_strong_key(&subkey.key) {
            return Err("its key is too short or of a broken algorithm");
        }
        let good = |kind: SignatureType| {
            subkey.signatures.iter().filter(move |signature| {
                signature.typ() == Some(kind)
                    && signature
                        .verify_subkey_binding(primary, &subkey.key)
                        .is_ok()
            })
        };
        if good(SignatureType::SubkeyRevocation).next().is_some() {
            return Err("its key was revoked");
        }
        let newest = good(SignatureType::SubkeyBinding)
            .filter(|binding| is_strong(binding))
            .max_by_key(|binding| created(binding))
            .ok_or("its key is not bound to a primary key")?;
        if !newest.key_flags().sign() {
            return Err("its key is not for signing");
        }
        let agrees = newest.embedded_signature().is_some_and(|back| {
            is_strong(back)
                && back
                    .verify_primary_key_binding(&subkey.key, primary)
                    .is_ok()
        });
        if !agrees {
            return Err("its key does not confirm its primary key");
        }
        Ok(span(&subkey.key, newest))
    }
}

fn created(signature: &Signature) -> Option<u64> {
    signature.created().map(|time| u64::from(time.as_secs()))
}

/// A key's validity, counted from its creation (RFC 9580, section 5.2.3.13).
fn span(key: &impl KeyDetails, by: &Signature) -> Span {
    let from = u64::from(key.created_at().as_secs());
    Span {
        from,
        until: by
            .key_expiration_time()
            .map(|time| u64::from(time.as_secs()))
            .filter(|seconds| *seconds > 0)
            .map(|seconds| from + seconds),
    }
}

/// Whether a hash algorithm is collision-resistant.
fn is_strong(signature: &Signature) -> bool {
    matches!(
        signature.hash_alg(),
        Some(
            HashAlgorithm::Sha256
                | HashAlgorithm::Sha384
                | HashAlgorithm::Sha512
                | HashAlgorithm::Sha3_256
                | HashAlgorithm::Sha3_512
        )
    )
}

/// RSA from 2048 bits on, and elliptic curves; Debian has signed with nothing else.
fn is_strong_key(key: &impl VerifyingKey) -> bool {
    match key.public_params() {
        // Two multi-precision integers: the modulus, and an exponent of at most 4 bytes.
        PublicParams::RSA(rsa) => rsa.write_len() > 2 + 2048 / 8 + 2,
        _ => matches!(
            key.algorithm(),
            PublicKeyAlgorithm::ECDSA
                | PublicKeyAlgorithm::EdDSALegacy
                | PublicKeyAlgorithm::Ed25519
                | PublicKeyAlgorithm::Ed448
        ),
    }
}
