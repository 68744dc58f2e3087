//! The way out of a Vnet: sockets of this machine, and its resolver.
//!
//! [`super::policy`] decides whether a destination may be reached; here it is only reached.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::dns;

/// Time for a connection to be made; the guest waits meanwhile.
const CONNECT: Duration = Duration::from_secs(30);
/// Time for one resolver to answer.
const RESOLVE: Duration = Duration::from_secs(3);
const MAX_DNS_DATAGRAM: usize = 4096;

/// Opens what NAT needs. A test, or an installation with a proxy, may have its own.
#[async_trait]
pub trait Egress: Send + Sync {
    async fn tcp(&self, dest: SocketAddrV4) -> io::Result<TcpStream>;
    /// A socket connected to `dest`.
    async fn udp(&self, dest: SocketAddrV4) -> io::Result<UdpSocket>;
    /// Name servers, in the order to be asked.
    async fn resolvers(&self) -> Vec<SocketAddr>;
}

/// Plain sockets, and the name servers of /etc/resolv.conf.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostEgress;

#[async_trait]
impl Egress for HostEgress {
    async fn tcp(&self, dest: SocketAddrV4) -> io::Result<TcpStream> {
        let stream = timeout(CONNECT, TcpStream::connect(dest)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn udp(&self, dest: SocketAddrV4) -> io::Result<UdpSocket> {
        connected(SocketAddr::V4(dest)).await
    }

    async fn resolvers(&self) -> Vec<SocketAddr> {
        // Read each time: the file changes with the machine's network.
        tokio::fs::read_to_string("/etc/resolv.conf").await.map(|text| parse_resolv_conf(&text)).unwrap_or_default()
    }
}

async fn connected(dest: SocketAddr) -> io::Result<UdpSocket> {
    let any = if dest.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(dest).await?;
    Ok(socket)
}

fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// The first answer of the resolvers to a guest's query, or a "server failure".
pub(super) async fn resolve(egress: &dyn Egress, query: &[u8], by_tcp: bool) -> Vec<u8> {
    for resolver in egress.resolvers().await {
        let asked =
            async { if by_tcp { ask_by_tcp(resolver, query).await } else { ask_by_udp(resolver, query).await } };
        match timeout(RESOLVE, asked).await {
            Ok(Ok(response)) => return response,
            Ok(Err(error)) => tracing::debug!(%resolver, %error, "resolver failed"),
            Err(_) => tracing::debug!(%resolver, "resolver did not answer"),
        }
    }
    dns::failed(query)
}

async fn ask_by_udp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = connected(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; MAX_DNS_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if dns::answers(query, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_by_tcp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_message(&mut stream, query).await?;
    let response = read_message(&mut stream).await?;
    if dns::answers(query, &response) { Ok(response) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// DNS over TCP: a message behind its 16-bit length.
pub(super) async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(super) async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_in_order() {
        let text =
            "# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.53\n nameserver\t::1 # local\nnameserver nonsense\n";
        let expected: Vec<SocketAddr> = vec!["10.0.0.53:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(parse_resolv_conf(text), expected);
    }
}
