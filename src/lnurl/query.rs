//! What is asked, read from a URL that anybody may have written.

/// The longest URL that is looked at: two BOLT11 texts fit into it.
const MAX_URL_LENGTH: usize = 16_384;

/// A URL that asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address cannot be read: {reason}")]
pub struct MalformedQuery {
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A path and its parameters, decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct LnurlQuery {
    path: String,
    pairs: Vec<(String, String)>,
}

impl std::fmt::Debug for LnurlQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LnurlQuery(redacted)")
    }
}

impl LnurlQuery {
    /// Reads `scheme://host/path?parameters`, or the path and the parameters alone.
    ///
    /// # Errors
    /// [`MalformedQuery`] when it is too long, or no path.
    pub fn parse(url: &str) -> Result<Self, MalformedQuery> {
        if url.len() > MAX_URL_LENGTH {
            return Err(MalformedQuery {
                reason: "it is too long",
            });
        }
        let url = url.trim();
        let url = url.split_once('#').map_or(url, |(url, _)| url);
        let (before, query) = url.split_once('?').unwrap_or((url, ""));
        let path = match before.split_once("://") {
            Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
            None => before,
        };
        if !path.starts_with('/') {
            return Err(MalformedQuery {
                reason: "it has no path",
            });
        }
        let pairs = form_urlencoded::parse(query.as_bytes());
        Ok(Self {
            path: path.trim_end_matches('/').to_owned(),
            pairs: pairs.into_owned().collect(),
        })
    }

    /// The path, without a slash at its end.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The parameters as they stand there.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// A parameter. One that stands there twice says twice the same.
    ///
    /// # Errors
    /// [`MalformedQuery`] when it does not.
    pub fn one(&self, name: &str) -> Result<Option<&str>, MalformedQuery> {
        let mut values = self
            .pairs
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str());
        let first = values.next();
        if values.any(|other| Some(other) != first) {
            return Err(MalformedQuery {
                reason: "a parameter stands there twice",
            });
        }
        Ok(first)
    }
}
