//! A TCP proxy on loopback that holds every piece of data back, so that a far machine can be measured on a near one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Starts a proxy to `target` that delays each direction by half of `round_trip`; it serves until the process ends.
pub fn proxy(target: SocketAddr, round_trip: Duration) -> Result<SocketAddr> {
    proxy_at("127.0.0.1:0", target, round_trip)
}

/// As [`proxy`], on an address of the caller's choice.
pub fn proxy_at(listen: &str, target: SocketAddr, round_trip: Duration) -> Result<SocketAddr> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    let address = listener.local_addr().context("own address")?;
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(target) else {
                continue;
            };
            for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
                if let (Ok(from), Ok(to)) = (from, to) {
                    let _ = (from.set_nodelay(true), to.set_nodelay(true));
                    pipe(from, to, round_trip / 2);
                }
            }
        }
    });
    Ok(address)
}

fn pipe(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if sender
                .send((Instant::now() + delay, buffer[..length].to_vec()))
                .is_err()
            {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, data) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&data).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_arrives_whole_and_late() {
        let echo = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = echo.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut data = [0; 4];
            stream.read_exact(&mut data).unwrap();
            stream.write_all(&data).unwrap();
        });
        let mut stream =
            TcpStream::connect(proxy(target, Duration::from_millis(40)).unwrap()).unwrap();
        let started = Instant::now();
        stream.write_all(b"ping").unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"ping");
        assert!(started.elapsed() >= Duration::from_millis(40));
    }
}
