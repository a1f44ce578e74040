//! Owns who may use the API for people: callers on the lab's own host, and the operator by a token; and how they are
//! called. The place for users with tokens of their own. Never keeps a page in a browser from being refused: a page of
//! another site must not speak for whoever looks at it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use crate::lab::api::bearer;
use crate::lab::secret;

/// The header in which a caller on the lab's host says who it is.
const USER: &str = "hearth-user";

/// Who submits jobs and reserves boards; in the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitter(pub String);

pub(super) struct Access {
    address: Ipv4Addr,
    operator: String,
}

impl Access {
    pub fn new(address: Ipv4Addr, operator: &str) -> Self {
        Access {
            address,
            operator: secret::hash(operator),
        }
    }

    /// Who calls.
    fn submitter(&self, peer: IpAddr, headers: &HeaderMap) -> Result<Submitter, Problem> {
        let peer = peer.to_canonical();
        let is_own_host = peer.is_loopback() || peer == self.address;
        if let Some(token) = bearer(headers) {
            // Compared by their hashes: how long that takes tells nothing of the token.
            return match secret::hash(token) == self.operator {
                true => Ok(Submitter(claimed(headers).unwrap_or("operator".into()))),
                false => Err(Problem::new(
                    StatusCode::UNAUTHORIZED,
                    "this is not a token of the lab",
                )),
            };
        }
        match is_own_host {
            true => Ok(Submitter(claimed(headers).unwrap_or("local".into()))),
            false => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "the lab's queue is for its own host, and for whoever has the operator's token",
            )),
        }
    }
}

/// The name that a caller gives itself: printable, and not too long.
fn claimed(headers: &HeaderMap) -> Option<String> {
    let name = headers.get(USER)?.to_str().ok()?.trim();
    let fine = (1..=64).contains(&name.len()) && !name.chars().any(char::is_control);
    fine.then(|| name.into())
}

pub(super) async fn admit(
    State(access): State<Arc<Access>>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let Some(ConnectInfo(peer)) = peer else {
        return StatusCode::FORBIDDEN.into_response();
    };
    if let Err(problem) = same_site(request.method(), request.headers()) {
        return problem.into_response();
    }
    match access.submitter(peer.ip(), request.headers()) {
        Ok(submitter) => {
            request.extensions_mut().insert(submitter);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Refuses what a browser sends on behalf of a page of another site (Fetch, "Sec-Fetch-Site"; RFC 6454, 7), also where the
/// other site's name leads to this host.
fn same_site(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &header::HeaderName| headers.get(name).and_then(|it| it.to_str().ok());
    let host = text(&header::HOST).unwrap_or_default();
    let refused = |why: &str| Err(Problem::new(StatusCode::FORBIDDEN, why));
    let site = headers
        .get("sec-fetch-site")
        .and_then(|it| it.to_str().ok());
    if !matches!(site, None | Some("same-origin" | "none")) {
        return refused("pages of other sites may not use the lab");
    }
    if let Some(origin) = text(&header::ORIGIN)
        && origin.strip_prefix("http://") != Some(host)
        && origin.strip_prefix("https://") != Some(host)
    {
        return refused("pages of other sites may not use the lab");
    }
    let from_browser = site.is_some() || text(&header::ORIGIN).is_some();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_plain = name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if from_browser && method != Method::GET && !is_plain {
        return refused("use the lab by its address, not by a name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            let name: header::HeaderName = name.parse().unwrap();
            map.insert(name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn the_own_host_and_the_operator_get_in_and_others_do_not() {
        let access = Access::new(Ipv4Addr::new(192, 168, 7, 1), "secret");
        let who = |peer: [u8; 4], all: &[(&str, &str)]| {
            access
                .submitter(IpAddr::from(peer), &headers(all))
                .map(|it| it.0)
                .map_err(|problem| problem.status.as_u16())
        };
        assert_eq!(who([127, 0, 0, 1], &[]), Ok("local".into()));
        assert_eq!(
            who([127, 0, 0, 1], &[("hearth-user", "anna")]),
            Ok("anna".into())
        );
        assert_eq!(who([192, 168, 7, 1], &[]), Ok("local".into()));
        assert_eq!(who([192, 168, 7, 9], &[("hearth-user", "anna")]), Err(403));
        let token = [("authorization", "Bearer secret")];
        assert_eq!(who([192, 168, 7, 9], &token), Ok("operator".into()));
        let wrong = [("authorization", "Bearer guess")];
        assert_eq!(who([192, 168, 7, 9], &wrong), Err(401));
        assert_eq!(who([127, 0, 0, 1], &wrong), Err(401));
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let fine = |method, all: &[(&str, &str)]| same_site(&method, &headers(all)).is_ok();
        let host = ("host", "127.0.0.1:8420");
        assert!(fine(Method::POST, &[host]));
        assert!(fine(
            Method::POST,
            &[host, ("origin", "http://127.0.0.1:8420")]
        ));
        assert!(!fine(
            Method::POST,
            &[host, ("origin", "http://evil.example")]
        ));
        assert!(!fine(Method::POST, &[host, ("origin", "null")]));
        assert!(!fine(
            Method::GET,
            &[host, ("sec-fetch-site", "cross-site")]
        ));
        // A name of the attacker's that leads to this host.
        let rebound = [("host", "evil.example"), ("origin", "http://evil.example")];
        assert!(!fine(Method::POST, &rebound));
    }
}
