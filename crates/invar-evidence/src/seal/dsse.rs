//! Signed envelopes: DSSE 1.0 around an in-toto Statement v1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::key::{PrivateKey, PublicKey};
use crate::error::{EvidenceError, Result};

/// The envelope's name in the evidence.
pub(crate) const NAME: &str = "seal.dsse.json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://github.com/invar/invar/evidence/v1";
/// Longest envelope, and most signatures looked at.
pub(crate) const LONGEST: u64 = 1 << 20;
const MOST_SIGNATURES: usize = 16;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    #[serde(default)]
    keyid: String,
    sig: String,
}

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    #[serde(default)]
    predicate: Value,
}

#[derive(Deserialize)]
struct Subject {
    name: String,
    digest: std::collections::BTreeMap<String, String>,
}

/// What a verified envelope says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sealed {
    /// Names and SHA-256 of what was signed.
    pub(crate) subjects: Vec<(String, String)>,
    /// Further facts.
    pub(crate) predicate: Value,
}

/// What is signed: the pre-authentication encoding of DSSE 1.0.
pub(crate) fn encode(kind: &str, body: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), body.len()).into_bytes();
    message.extend_from_slice(body);
    message
}

/// Makes an envelope about these subjects (name, SHA-256).
pub(crate) fn sign(key: &PrivateKey, sealed: &Sealed) -> Vec<u8> {
    let subject =
        |(name, digest): &(String, String)| json!({"name": name, "digest": {"sha256": digest}});
    let statement = json!({
        "_type": STATEMENT,
        "subject": sealed.subjects.iter().map(subject).collect::<Vec<_>>(),
        "predicateType": PREDICATE,
        "predicate": sealed.predicate,
    });
    let body = statement.to_string().into_bytes();
    let envelope = Envelope {
        payload: BASE64.encode(&body),
        payload_type: PAYLOAD_TYPE.to_owned(),
        signatures: vec![Signed {
            keyid: key.public().id(),
            sig: BASE64.encode(key.sign(&encode(PAYLOAD_TYPE, &body))),
        }],
    };
    let mut bytes = serde_json::to_vec(&envelope).expect("an envelope is plain data");
    bytes.push(b'\n');
    bytes
}

/// Checks the signature, then reads what was signed; nothing unsigned is looked into.
pub(crate) fn verify(key: &PublicKey, bytes: &[u8]) -> Result<Sealed> {
    let malformed = |reason: &dyn std::fmt::Display| EvidenceError::malformed(NAME, reason);
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(malformed(&"its payload is not an in-toto statement"));
    }
    let body = BASE64
        .decode(&envelope.payload)
        .map_err(|error| malformed(&error))?;
    let message = encode(PAYLOAD_TYPE, &body);
    let is_signed = envelope
        .signatures
        .iter()
        .take(MOST_SIGNATURES)
        .filter_map(|signed| BASE64.decode(&signed.sig).ok())
        .any(|signature| key.verify(&message, &signature));
    if !is_signed {
        let reason = format!("no signature in it is of the key {}", key.id());
        return Err(malformed(&reason));
    }
    let statement: Statement = serde_json::from_slice(&body).map_err(|error| malformed(&error))?;
    if statement.kind != STATEMENT || statement.predicate_type != PREDICATE {
        return Err(malformed(&"it was signed as something else than evidence"));
    }
    let subjects = statement.subject.into_iter().filter_map(|subject| {
        let digest = subject.digest.get("sha256")?.clone();
        Some((subject.name, digest))
    });
    Ok(Sealed {
        subjects: subjects.collect(),
        predicate: statement.predicate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        // The example of the DSSE protocol document.
        let encoded = encode("http://example.com/HelloWorld", b"hello world");
        let expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
        assert_eq!(encoded, expected);
    }

    #[test]
    fn an_envelope_is_believed_only_with_the_right_key_and_type() {
        let trust = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let key = PrivateKey::load_or_create(trust.path()).unwrap();
        let stranger = PrivateKey::load_or_create(other.path()).unwrap();
        let sealed = Sealed {
            subjects: vec![("SHA256SUMS".to_owned(), "ab".repeat(32))],
            predicate: json!({"id": "x"}),
        };
        let bytes = sign(&key, &sealed);
        assert_eq!(verify(&key.public(), &bytes).unwrap(), sealed);
        assert!(verify(&stranger.public(), &bytes).is_err());
        let mut envelope: Value = serde_json::from_slice(&bytes).unwrap();
        envelope["payloadType"] = json!("text/plain");
        assert!(verify(&key.public(), envelope.to_string().as_bytes()).is_err());
    }
}
