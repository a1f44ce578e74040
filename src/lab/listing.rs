//! Owns who may see the list of the lab's images and boards, at `/`: the lab's own host, and the operator by a token.
//! Never makes the list.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::secret;

/// Gives the list, as JSON.
pub type List = Arc<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;

/// The route `/` of a lab at `address`, whose operator has `token`.
pub fn listing(list: List, address: Ipv4Addr, token: &str) -> Router {
    let token = secret::hash(token);
    let answer = move |ConnectInfo(peer): ConnectInfo<SocketAddr>, headers: HeaderMap| async move {
        let ip = peer.ip().to_canonical();
        let is_own_host = ip.is_loopback() || ip == address;
        // Compared by their hashes: how long that takes tells nothing of the token.
        let shown = super::api::bearer(&headers).map(secret::hash);
        if is_own_host || shown.as_ref() == Some(&token) {
            respond(list())
        } else {
            StatusCode::FORBIDDEN.into_response()
        }
    };
    Router::new().route("/", get(answer))
}

fn respond(list: Result<Vec<u8>>) -> Response {
    match list {
        Ok(list) => ([(header::CONTENT_TYPE, "application/json")], list).into_response(),
        Err(error) => {
            log::error!("http: the list at /: {error:#}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
