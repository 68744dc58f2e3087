//! Serial consoles over WebSocket: `POST {machine}/providers/Microsoft.SerialConsole/serialPorts/0/connect` tells the address, which is
//! here; it takes the same token as the management endpoint, in its query as Azure's clients send it, or in its header.
//!
//! Text goes both ways as it is typed and printed. A machine's console has one user: whoever comes next takes it over.

use crate::app::App;
use crate::context::Context;
use crate::identity::bearer;
use crate::net::websocket::{Decoder, Kind, Message, Text, accept, frame};
use crate::respond::{self, Reply};
use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use lazuli_arm::ArmError;
use lazuli_engine::GuestStream;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A client that takes nothing for so long is gone: the guest must not wait for it.
const TAKES: Duration = Duration::from_secs(30);

/// Makes the connection a console of the machine.
pub(crate) async fn connect(app: &App, context: &Context, machine: &str, upgrade: Option<OnUpgrade>) -> Reply {
    match open(app, context, machine).await {
        Ok((console, accept)) => {
            let Some(upgrade) = upgrade else { return respond::error(&not_a_websocket()) };
            tokio::spawn(async move {
                match upgrade.await {
                    Ok(client) => {
                        if let Err(error) = pump(TokioIo::new(client), console).await {
                            tracing::debug!(%error, "a session on a serial console ended");
                        }
                    }
                    Err(error) => tracing::debug!(%error, "a client did not take the serial console"),
                }
            });
            let mut reply = Response::new(Body::empty());
            *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            reply.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            reply.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            reply
        }
        Err(error) if error.status == 401 => bearer::challenge(app, context, &error),
        Err(error) => respond::error(&error),
    }
}

async fn open(app: &App, context: &Context, machine: &str) -> Result<(GuestStream, HeaderValue), ArmError> {
    let token = context.query.get("authorization").map(|t| t.strip_prefix("Bearer ").unwrap_or(t));
    let caller = match token {
        Some(token) => bearer::of_token(app, context, token).await?,
        None => bearer::authenticate(app, context).await?,
    };
    let websocket = context.header("upgrade").is_some_and(|u| u.eq_ignore_ascii_case("websocket"));
    let key = context.header("sec-websocket-key").filter(|_| websocket).ok_or_else(not_a_websocket)?;
    let accept = HeaderValue::from_str(&accept(&key)).map_err(ArmError::internal)?;
    let engine = app.directory.as_ref().ok_or_else(|| ArmError::internal("no engine answers for consoles"))?;
    let machine = machine
        .parse()
        .map_err(|e| ArmError::bad_request("InvalidResourceId", format!("'{machine}' names no machine: {e}")))?;
    Ok((engine.serial_console(&caller, &machine).await?, accept))
}

fn not_a_websocket() -> ArmError {
    ArmError::new(426, "UpgradeRequired", "A serial console is reached by WebSocket.")
}

/// Until either side ends it.
async fn pump(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut console: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    let (mut decoder, mut text) = (Decoder::default(), Text::default());
    let (mut said, mut typed) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        tokio::select! {
            read = console.read(&mut said) => {
                let read = read?;
                if read == 0 {
                    return give(&mut client, &frame(Kind::Close, &[], None)).await;
                }
                let piece = text.take(&said[..read]);
                give(&mut client, &frame(Kind::Text, piece.as_bytes(), None)).await?;
            }
            read = client.read(&mut typed) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                decoder.push(&typed[..read]);
                while let Some(message) = decoder.message().map_err(io::Error::other)? {
                    match message {
                        Message::Data(keys) => give(&mut console, &keys).await?,
                        Message::Ping(payload) => give(&mut client, &frame(Kind::Pong, &payload, None)).await?,
                        Message::Pong => {}
                        Message::Close => return give(&mut client, &frame(Kind::Close, &[], None)).await,
                    }
                }
            }
        }
    }
}

async fn give(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let given = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    tokio::time::timeout(TAKES, given).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn text_goes_both_ways() {
        let (mut client, ours) = tokio::io::duplex(1024);
        let (mut machine, theirs) = tokio::io::duplex(1024);
        let pumped = tokio::spawn(pump(ours, theirs));
        client.write_all(&frame(Kind::Text, b"root\r", Some([9, 8, 7, 6]))).await.unwrap();
        let mut typed = [0; 5];
        machine.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"root\r");
        machine.write_all(b"Password: ").await.unwrap();
        let mut said = [0; 12];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"\x81\x0aPassword: ");
        client.write_all(&frame(Kind::Ping, b"?", Some([0; 4]))).await.unwrap();
        let mut pong = [0; 3];
        client.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"\x8a\x01?");
        drop(machine);
        let mut end = Vec::new();
        client.read_to_end(&mut end).await.unwrap();
        assert_eq!(end, [0x88, 0]);
        pumped.await.unwrap().unwrap();
    }
}
