//! Questions and answers of the domain name system (RFC 1035), as far as a resolver must read them
//! that answers some and passes the others on untouched.

use std::net::IpAddr;

/// Bytes of a header.
const HEADER: usize = 12;
/// Bytes of a name, with its lengths and the zero that ends it.
const LONGEST_NAME: usize = 255;
/// Bytes of an answer that everybody takes.
const LONGEST_ANSWER: usize = 512;
/// The class of the internet.
const INTERNET: u16 = 1;
/// Seconds for which an answer counts: a name's container may be replaced at any time.
const LIFETIME: u32 = 1;

/// Types of records.
pub(super) const A: u16 = 1;
pub(super) const PTR: u16 = 12;
pub(super) const AAAA: u16 = 28;

/// What an answer says besides its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Done = 0,
    Malformed = 1,
    Failed = 2,
    NoSuchName = 3,
    Unsupported = 4,
    Refused = 5,
}

/// A query with exactly one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::embedded::network) struct Query {
    pub(in crate::embedded::network) id: u16,
    /// The flag by which a client asks for recursion, as it stands in the header.
    recursion: u8,
    /// Lower case, labels joined by dots; a byte that no host name has makes it `None`.
    pub(super) name: Option<String>,
    pub(super) kind: u16,
    pub(super) class: u16,
    /// The question as it was asked.
    question: Vec<u8>,
}

/// Why a query is not answered as asked; `None` when it deserves no answer at all.
pub(in crate::embedded::network) type Rejected = Option<Vec<u8>>;

impl Query {
    /// Reads a query. What follows the question is left unread.
    pub(in crate::embedded::network) fn parse(bytes: &[u8]) -> Result<Self, Rejected> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(None)?;
        let id = u16::from_be_bytes([header[0], header[1]]);
        let recursion = header[2] & 1;
        // An answer to an answer would never end.
        if header[2] & 0x80 != 0 {
            return Err(None);
        }
        let reject = |code: Code| Some(reply_header(id, recursion, code, 0, 0).to_vec());
        if header[2] & 0x78 != 0 {
            return Err(reject(Code::Unsupported));
        }
        if u16::from_be_bytes([header[4], header[5]]) != 1 {
            return Err(reject(Code::Malformed));
        }
        let rest = &bytes[HEADER..];
        let (name, length) = parse_name(rest).ok_or_else(|| reject(Code::Malformed))?;
        let end = length + 4;
        let question = rest.get(..end).ok_or_else(|| reject(Code::Malformed))?;
        let number = |at: usize| u16::from_be_bytes([question[at], question[at + 1]]);
        Ok(Self {
            id,
            recursion,
            name,
            kind: number(length),
            class: number(length + 2),
            question: question.to_vec(),
        })
    }

    /// Whether the question is of the internet, as nearly all are.
    pub(super) fn is_internet(&self) -> bool {
        self.class == INTERNET
    }

    /// Whether these bytes are an answer to this query under that id.
    pub(in crate::embedded::network) fn is_answered_by(&self, bytes: &[u8], id: u16) -> bool {
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            return false;
        };
        let question = bytes.get(HEADER..HEADER + self.question.len());
        header[..2] == id.to_be_bytes()
            && header[2] & 0x80 != 0
            && header[4..6] == [0, 1]
            && question.is_some_and(|other| other.eq_ignore_ascii_case(&self.question))
    }

    /// An answer without records.
    pub(super) fn reply(&self, code: Code) -> Vec<u8> {
        let mut bytes = reply_header(self.id, self.recursion, code, 1, 0).to_vec();
        bytes.extend(&self.question);
        bytes
    }

    /// An answer with as many of these addresses as fit.
    pub(in crate::embedded::network) fn addresses(&self, addresses: &[IpAddr]) -> Vec<u8> {
        self.records(addresses.iter().map(|address| match address {
            IpAddr::V4(address) => (A, address.octets().to_vec()),
            IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
        }))
    }

    /// An answer with a name, which must be a valid one.
    pub(in crate::embedded::network) fn pointer(&self, name: &str) -> Vec<u8> {
        let mut data = Vec::new();
        for label in name.split('.') {
            let Ok(length @ 1..=63) = u8::try_from(label.len()) else {
                return self.reply(Code::NoSuchName);
            };
            data.push(length);
            data.extend(label.as_bytes());
        }
        data.push(0);
        self.records([(PTR, data)].into_iter())
    }

    fn records(&self, records: impl Iterator<Item = (u16, Vec<u8>)>) -> Vec<u8> {
        let mut bytes = self.reply(Code::Done);
        let mut count: u16 = 0;
        for (kind, data) in records {
            let mut record = vec![0xc0, u8::try_from(HEADER).expect("twelve")];
            record.extend(kind.to_be_bytes());
            record.extend(INTERNET.to_be_bytes());
            record.extend(LIFETIME.to_be_bytes());
            record.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
            record.extend(data);
            if bytes.len() + record.len() > LONGEST_ANSWER {
                break;
            }
            bytes.extend(record);
            count += 1;
        }
        bytes[6..8].copy_from_slice(&count.to_be_bytes());
        bytes
    }
}

fn reply_header(id: u16, recursion: u8, code: Code, questions: u16, answers: u16) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..2].copy_from_slice(&id.to_be_bytes());
    // An answer, by who decides about the name.
    header[2] = 0x84 | recursion;
    // Recursion is available.
    header[3] = 0x80 | code as u8;
    header[4..6].copy_from_slice(&questions.to_be_bytes());
    header[6..8].copy_from_slice(&answers.to_be_bytes());
    header
}

/// The name at the beginning, and how many bytes it takes. A question has no other name to point
/// to: every length is that of a label.
fn parse_name(bytes: &[u8]) -> Option<(Option<String>, usize)> {
    let mut text = Some(String::new());
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((text, at));
        }
        if length > 63 || at + length >= LONGEST_NAME {
            return None;
        }
        let label = bytes.get(at..at + length)?;
        at += length;
        let is_plain = label
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
        text = text.filter(|_| is_plain).map(|mut text| {
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(
                label
                    .iter()
                    .map(|byte| char::from(byte.to_ascii_lowercase())),
            );
            text
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes
    }

    #[test]
    fn a_query_is_read_and_its_answer_has_its_id_and_question() {
        let bytes = query("Web.Front", A);
        let parsed = Query::parse(&bytes).unwrap();
        assert_eq!((parsed.id, parsed.kind), (0xabcd, A));
        assert_eq!(parsed.name.as_deref(), Some("web.front"));
        assert!(parsed.is_internet());
        let answer = parsed.addresses(&["10.0.0.2".parse().unwrap()]);
        assert_eq!(answer[..8], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1]);
        assert!(answer.ends_with(&[0, 4, 10, 0, 0, 2]));
        assert!(parsed.is_answered_by(&answer, 0xabcd));
        assert!(!parsed.is_answered_by(&answer, 0xabce));
        assert!(
            !parsed.is_answered_by(&bytes, 0xabcd),
            "a question is no answer"
        );
        let other = Query::parse(&query("web.back", A)).unwrap();
        assert!(!other.is_answered_by(&answer, 0xabcd));
    }

    #[test]
    fn an_answer_with_many_addresses_fits_into_one_datagram() {
        let parsed = Query::parse(&query("all", AAAA)).unwrap();
        let addresses = vec!["fd00::2".parse().unwrap(); 1000];
        let answer = parsed.addresses(&addresses);
        assert!(answer.len() <= LONGEST_ANSWER);
        assert!(u16::from_be_bytes([answer[6], answer[7]]) > 10);
    }

    #[test]
    fn what_is_no_query_is_rejected_without_a_panic() {
        let good = query("a.b", A);
        for length in 0..good.len() {
            assert!(Query::parse(&good[..length]).is_err(), "{length}");
        }
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Query::parse(&bytes)
        };
        assert_eq!(changed(2, 0x81), Err(None), "an answer is not answered");
        for (at, value, code) in [
            (2, 0x29, 4),
            (5, 0, 1),
            (5, 2, 1),
            (12, 0xc0, 1),
            (12, 64, 1),
        ] {
            let Err(Some(reply)) = changed(at, value) else {
                panic!("byte {at} as {value} was accepted");
            };
            assert_eq!(reply[3] & 15, code, "byte {at} as {value}");
        }
        let label = "a".repeat(63);
        let long = [label.as_str(); 4].join(".");
        assert!(
            Query::parse(&query(&long, A)).is_err(),
            "longer than a name can be"
        );
        let odd = Query::parse(&query("a b", A)).unwrap();
        assert_eq!(odd.name, None);
        assert_eq!(
            Query::parse(&query("", A)).unwrap().name.as_deref(),
            Some("")
        );
    }
}
