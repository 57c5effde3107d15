//! A small web server in three versions, made with `rustc` alone. It listens on `PORT`.
//!
//! v1 answers; v2 answers 500 to three requests in a hundred; v3 answers again.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Given when it is compiled.
const VERSION: &str = env!("APP_VERSION");

static REQUESTS: AtomicUsize = AtomicUsize::new(0);

fn main() {
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).expect("the port is free");
    println!("{VERSION} listens on {port}");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            // A client that goes away ends its own connection only.
            let _ = answer_all(stream);
        });
    }
}

fn answer_all(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line != "\r\n" {
            continue;
        }
        // The end of a request's head. Bodies are not read: nothing sends one.
        let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
        let is_bad = VERSION == "v2" && number % 100 % 33 == 0 && number % 100 < 99;
        let status = if is_bad { "500 Internal Server Error" } else { "200 OK" };
        let body = format!("{VERSION}\n");
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        reader.get_mut().write_all((head + &body).as_bytes())?;
    }
}
