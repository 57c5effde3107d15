//! A container of the soak: answers its name, late, or as a WebSocket. Made with `rustc` alone.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn main() {
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let name = std::env::var("ROUND").unwrap_or_default();
    let name: &'static str = Box::leak(name.into_boxed_str());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).expect("the port is free");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            // A client that goes away ends its own connection only.
            let _ = answer_all(name, stream);
        });
    }
}

fn answer_all(name: &str, stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        loop {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
            if head.ends_with("\r\n\r\n") {
                break;
            }
        }
        if head.to_ascii_lowercase().contains("upgrade: websocket") {
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX-Revision: {name}\r\n\r\n"
            );
            reader.get_mut().write_all(answer.as_bytes())?;
            return echo_frames(&mut reader);
        }
        if head.starts_with("GET /slow") {
            std::thread::sleep(Duration::from_millis(40));
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        reader.get_mut().write_all(answer.as_bytes())?;
    }
}

/// Short frames only: the clients send no others.
fn echo_frames(reader: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    loop {
        let mut head = [0; 6];
        reader.read_exact(&mut head)?;
        let mut frame = vec![head[0], head[1] & 0x7f];
        let mut payload = vec![0; usize::from(frame[1])];
        reader.read_exact(&mut payload)?;
        frame.extend(payload.iter().zip(head[2..].iter().cycle()).map(|(byte, mask)| byte ^ mask));
        reader.get_mut().write_all(&frame)?;
        if head[0] & 0x0f == 8 {
            return Ok(());
        }
    }
}
