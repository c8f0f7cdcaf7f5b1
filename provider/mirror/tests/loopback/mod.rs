//! A web server on loopback that a test fills and spoils, and counts the requests of.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One request, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

/// An answer. `cut` ends the connection after so many bytes of the body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) cut: Option<usize>,
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn new(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (log, handler): (_, Arc<Handler>) = (requests.clone(), Arc::new(handler));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, handler) = (log.clone(), handler.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &log, &*handler));
            }
        });
        Self { address, requests }
    }

    /// A server of files, which understands `Range`.
    pub(crate) fn of_files(files: Arc<Mutex<BTreeMap<String, Reply>>>) -> Self {
        Self::new(move |request| {
            let mut files = files.lock().unwrap();
            let Some(file) = files.get_mut(&request.target) else {
                return Reply {
                    status: 404,
                    ..Reply::default()
                };
            };
            let reply = file.clone();
            // It fails once.
            file.cut = None;
            let from = request.range.as_ref().and_then(|range| {
                let from = range.strip_prefix("bytes=")?.strip_suffix('-')?;
                from.parse::<usize>().ok()
            });
            match from {
                Some(from) => Reply {
                    status: 206,
                    headers: vec![(
                        "content-range".to_owned(),
                        format!("bytes {from}-{}/{}", reply.body.len() - 1, reply.body.len()),
                    )],
                    body: reply.body[from..].to_vec(),
                    cut: reply.cut,
                },
                None => reply,
            }
        })
    }

    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    /// The requests since the last time.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

pub(crate) fn file(bytes: &[u8]) -> Reply {
    Reply {
        status: 200,
        body: bytes.to_vec(),
        ..Reply::default()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Request>>, handler: &Handler) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(request) = read(&mut reader) {
        let reply = handler(&request);
        let is_head = request.method == "HEAD";
        log.lock().unwrap().push(request);
        let mut head = format!(
            "HTTP/1.1 {} x\r\ncontent-length: {}\r\n",
            reply.status,
            reply.body.len()
        );
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let body = if is_head { &[][..] } else { &reply.body[..] };
        let end = reply.cut.unwrap_or(body.len()).min(body.len());
        let sent = writer
            .write_all(head.as_bytes())
            .and_then(|()| writer.write_all(&body[..end]));
        if sent.is_err() || reply.cut.is_some() {
            drop(writer.shutdown(std::net::Shutdown::Both));
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader
        .read_line(&mut line)
        .ok()
        .filter(|count| *count > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut request = Request {
        method,
        target,
        range: None,
        authorization: None,
    };
    loop {
        let mut line = String::new();
        reader
            .read_line(&mut line)
            .ok()
            .filter(|count| *count > 0)?;
        let Some((name, value)) = line.split_once(':') else {
            return Some(request);
        };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value),
            "authorization" => request.authorization = Some(value),
            _ => {}
        }
    }
}
