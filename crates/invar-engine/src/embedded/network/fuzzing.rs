//! Entry points for the fuzz targets in `/fuzz`, compiled for them alone.

use super::resolver::message::Query;

/// Reads bytes as a query to the resolver, and answers it in every way there is.
pub fn query(bytes: &[u8]) {
    let Ok(query) = Query::parse(bytes) else {
        return;
    };
    let addresses = [[10, 0, 0, 2].into(), [0_u16; 8].into()];
    for answer in [query.addresses(&addresses), query.pointer("web.front")] {
        assert!(query.is_answered_by(&answer, query.id));
        assert!(answer.len() <= 512);
    }
    assert!(!query.is_answered_by(bytes, query.id));
}
