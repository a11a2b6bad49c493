//! One HTTP/1.1 connection to an endpoint, in the clear or over TLS; and answers that come line by line.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::{Endpoint, HttpTls, Scheme, Url};

/// The most bytes of a line of an answer that goes on.
const LONGEST_LINE: usize = 64 << 20;

/// A request that did not come to an answer.
#[derive(Debug)]
pub enum Broken {
    /// Nothing of it was sent.
    Before(String),
    /// It may have been read.
    After(String),
}

/// What endpoints are called with.
#[derive(Clone)]
pub struct Dialer {
    tls: Option<TlsConnector>,
}

impl Dialer {
    /// `None`: in the clear. The error says which file cannot be used.
    pub fn new(tls: Option<&HttpTls>) -> Result<Dialer, String> {
        let tls = tls.map(connector).transpose()?;
        Ok(Dialer { tls })
    }

    /// In the clear when that is what the address says, whatever is configured for others.
    pub fn to(url: &Url, tls: Option<&HttpTls>) -> Result<Dialer, String> {
        match url.scheme {
            Scheme::Http => Dialer::new(None),
            Scheme::Https if tls.is_none() => Err("nothing is configured for https".to_owned()),
            Scheme::Https => Dialer::new(tls),
        }
    }

    pub async fn dial(&self, endpoint: &Endpoint) -> Result<Connection, String> {
        let socket = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(|error| error.to_string())?;
        // Questions are small, and each waits for its answer.
        socket
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        match &self.tls {
            None => Connection::over(socket).await,
            Some(connector) => {
                let name = ServerName::try_from(endpoint.host.clone())
                    .map_err(|_| "its name cannot be in a certificate".to_owned())?;
                let stream = connector.connect(name, socket).await;
                Connection::over(stream.map_err(|error| format!("TLS: {error}"))?).await
            }
        }
    }
}

fn connector(tls: &HttpTls) -> Result<TlsConnector, String> {
    let certificates = |path: &Path| {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        let read: Vec<_> = read.map_err(|error| format!("{}: {error}", path.display()))?;
        match read.is_empty() {
            true => Err(format!("{} holds no certificate", path.display())),
            false => Ok(read),
        }
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(&tls.root_certificate)? {
        roots
            .add(root)
            .map_err(|error| format!("{}: {error}", tls.root_certificate.display()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match &tls.certificate {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::from_pem_file(&pair.key)
                .map_err(|error| format!("{}: {error}", pair.key.display()))?;
            builder
                .with_client_auth_cert(certificates(&pair.certificate)?, key)
                .map_err(|error| format!("{}: {error}", pair.certificate.display()))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A connection on which nothing is under way.
pub struct Connection {
    sender: SendRequest<String>,
}

impl Connection {
    async fn over<S>(stream: S) -> Result<Connection, String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        // It ends with the connection. What goes wrong is told where the answer is waited for.
        tokio::spawn(connection);
        Ok(Connection { sender })
    }

    /// Whether the other side has not closed it, as far as is known.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    pub async fn send(&mut self, request: Request<String>) -> Result<Response<Incoming>, Broken> {
        if let Err(error) = self.sender.ready().await {
            return Err(Broken::Before(said(&error)));
        }
        let sent = self.sender.try_send_request(request).await;
        sent.map_err(|mut failure| {
            // A request that is given back was not begun.
            let was_begun = failure.take_message().is_none();
            match was_begun {
                true => Broken::After(said(failure.error())),
                false => Broken::Before(said(failure.error())),
            }
        })
    }
}

/// The error, and what it comes from.
fn said(error: &hyper::Error) -> String {
    use std::error::Error;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// As the header of that name wants it.
pub(super) fn host(endpoint: &Endpoint) -> String {
    match endpoint.host.contains(':') {
        true => format!("[{}]:{}", endpoint.host, endpoint.port),
        false => format!("{}:{}", endpoint.host, endpoint.port),
    }
}

/// A POST of a JSON text.
pub fn request(
    endpoint: &Endpoint,
    path: &'static str,
    body: String,
    token: Option<&str>,
) -> Result<Request<String>, String> {
    let mut request = Request::post(path)
        .header(HOST, host(endpoint))
        .header(CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    request.body(body).map_err(|error| error.to_string())
}

/// The whole body of an answer, which has no more than `most` bytes.
pub async fn whole(body: &mut Incoming, most: usize) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    while let Some(data) = next(body).await? {
        if all.len() + data.len() > most {
            return Err(format!("an answer of more than {most} bytes"));
        }
        all.extend_from_slice(&data);
    }
    Ok(all)
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>, String> {
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(said(&error)),
            Some(Ok(frame)) => {
                // Trailers are not data.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// An answer that goes on, a JSON text on each line.
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    pub fn of(body: Incoming) -> Lines {
        Lines {
            body,
            rest: Vec::new(),
        }
    }

    /// Nothing is lost when this is not waited for to the end.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                let behind = self.rest.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.rest, behind)));
            }
            if self.rest.len() > LONGEST_LINE {
                return Err(format!("a line of more than {LONGEST_LINE} bytes"));
            }
            match next(&mut self.body).await? {
                Some(data) => self.rest.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}
