//! One question on a connection of its own, and its whole answer.

use hyper::Request;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};

use super::connection::{Broken, Dialer, host, whole};
use crate::config::Url;

/// The most bytes of an answer's body. What is asked here fits into a few kilobytes.
const LARGEST: usize = 1 << 20;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code, like 200.
    pub status: u16,
    pub body: Vec<u8>,
}

/// GETs, or POSTs a JSON text. Has no time limit of its own; an answer of whatever status is an answer.
pub async fn call(dialer: &Dialer, url: &Url, json: Option<String>) -> Result<Answer, String> {
    let request = match &json {
        Some(_) => Request::post(&url.path).header(CONTENT_TYPE, "application/json"),
        None => Request::get(&url.path),
    };
    let request = request
        .header(HOST, host(&url.endpoint))
        .header(CONNECTION, "close")
        .body(json.unwrap_or_default())
        .map_err(|error| error.to_string())?;
    let mut connection = dialer.dial(&url.endpoint).await?;
    let response = connection.send(request).await.map_err(|broken| {
        let (Broken::Before(said) | Broken::After(said)) = broken;
        said
    })?;
    let status = response.status().as_u16();
    let body = whole(&mut response.into_body(), LARGEST).await?;
    Ok(Answer { status, body })
}
