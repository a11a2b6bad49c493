//! The administrator's hook that fences an old primary: it is called, and its answer is believed.

use std::time::Duration;

use serde_json::json;

use super::program::Concern;
use crate::config::{HttpTls, Url};
use crate::http::{self, Dialer};

/// How much of an answer's text is repeated.
const LONGEST_TEXT: usize = 200;

/// POSTs whom it concerns, once: a hook that was called may have begun. Anything but a status from 200 to 299 within the limit is an error.
pub async fn call(
    url: &Url,
    tls: Option<&HttpTls>,
    concern: &Concern,
    limit: Duration,
) -> Result<(), String> {
    let told = json!({
        "shard": concern.shard,
        "old_primary": concern.old,
        "new_primary": concern.new,
    });
    let called = async {
        let dialer = Dialer::to(url, tls)?;
        http::call(&dialer, url, Some(told.to_string())).await
    };
    match tokio::time::timeout(limit, called).await {
        Ok(Ok(answer)) if (200..300).contains(&answer.status) => Ok(()),
        Ok(Ok(answer)) => {
            let text = String::from_utf8_lossy(&answer.body);
            let text: String = text.trim().chars().take(LONGEST_TEXT).collect();
            Err(format!("{url} answered {}: {text}", answer.status))
        }
        Ok(Err(error)) => Err(format!("{url}: {error}")),
        Err(_) => Err(format!("{url} did not answer within {limit:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, Scheme};
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::post;
    use serde_json::Value;

    #[tokio::test]
    async fn what_a_hook_is_told_and_what_counts_as_done() {
        let told = |told: String| async move {
            let told: Value = serde_json::from_str(&told).unwrap_or_default();
            let wanted = json!({ "shard": "s1", "old_primary": "a:1", "new_primary": "b:2" });
            match told == wanted {
                true => (StatusCode::ACCEPTED, ""),
                false => (StatusCode::BAD_REQUEST, "something else"),
            }
        };
        let refuses = || async { (StatusCode::CONFLICT, "it is on another network\n") };
        let hangs = || std::future::pending::<StatusCode>();
        let router = Router::new()
            .route("/fence", post(told))
            .route("/refuses", post(refuses))
            .route("/hangs", post(hangs));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let url = |path: &str| Url {
            scheme: Scheme::Http,
            endpoint: Endpoint {
                host: "127.0.0.1".to_owned(),
                port,
            },
            path: path.to_owned(),
        };
        let concern = Concern {
            shard: "s1".to_owned(),
            old: "a:1".to_owned(),
            new: "b:2".to_owned(),
        };
        let limit = Duration::from_secs(10);
        let fence = url("/fence");
        assert_eq!(call(&fence, None, &concern, limit).await, Ok(()));
        let refused = call(&url("/refuses"), None, &concern, limit).await;
        let wanted =
            format!("http://127.0.0.1:{port}/refuses answered 409: it is on another network");
        assert_eq!(refused, Err(wanted));
        let slow = call(&url("/hangs"), None, &concern, Duration::from_millis(50)).await;
        assert!(slow.unwrap_err().contains("did not answer within 50ms"));
        server.abort();
        let _ = server.await;
        let gone = call(&fence, None, &concern, limit).await.unwrap_err();
        assert!(gone.contains("refused"), "{gone}");
    }
}
