//! What keeps other web sites away from the runs: which names the server goes by, and what its pages may do.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

/// The policy of the server's own pages: nothing inline, and everything from here.
const OWN_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The policy of the files of a run, which come with it; pages of the server have [`OWN_POLICY`]. Its page has its script inside, and a run may come from anywhere: the page
/// runs apart from the server's origin, so it can read neither other runs nor send anything anywhere.
pub(super) const RUN_POLICY: &str = "sandbox allow-scripts allow-top-navigation-by-user-activation; \
     default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; \
     form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// Whether a request may name the server so. A web site whose name leads to this address (DNS rebinding) could
/// otherwise read all runs with the browser of a visitor: it controls a name, but not an address.
pub(super) fn is_allowed(host: &str, names: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    literal.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// Refuses requests for other names, and adds the headers that confine what is served.
pub(super) async fn guard(
    State(names): State<Arc<[String]>>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(Authority::as_str));
    let mut response = match host {
        Some(host) if is_allowed(host, &names) => next.run(request).await,
        _ => {
            let reason =
                "This server answers to its address, to localhost, and to the names of --host.\n";
            (StatusCode::MISDIRECTED_REQUEST, reason).into_response()
        }
    };
    // What comes from a run has its policy already.
    let headers = response.headers_mut();
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(OWN_POLICY));
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_others_control_is_refused() {
        let names = ["Build.example".to_owned()];
        for good in [
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
            "10.1.2.3",
            "localhost:1",
            "LOCALHOST",
            "build.example:80",
        ] {
            assert!(is_allowed(good, &names), "{good}");
        }
        for bad in [
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "x@127.0.0.1",
            "127.0.0.1@evil.example",
            "127.0.0.1, evil.example",
            "build.example.evil",
            "",
        ] {
            assert!(!is_allowed(bad, &names), "{bad}");
        }
    }
}
