//! Hosts, as addresses on the web name them.

/// A name of a host in lower case, with or without a port.
pub(crate) fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "443"));
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let ends = !label.starts_with('-') && !label.ends_with('-');
        (1..=63).contains(&label.len()) && ends && label.bytes().all(inner)
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    host.len() <= 253
        && host.split('.').all(is_label)
        && is_port
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// How a host is asked: LUD-17 has hidden services without TLS.
pub(crate) fn scheme(host: &str) -> &'static str {
    let name = host.split(':').next().unwrap_or(host);
    if name.ends_with(".onion") {
        "http"
    } else {
        "https"
    }
}
