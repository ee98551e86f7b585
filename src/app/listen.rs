//! Ports: taken early, so that a conflict is known before anything else happens; opened to clients when the broker is
//! ready.

use std::net::{SocketAddr, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Why a port cannot be had, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The host's name leads nowhere.
    #[error("{setting} = '{address}': the host cannot be resolved: {reason}")]
    Resolve {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: String,
        /// What the machine said.
        reason: String,
    },
    /// Another process listens there.
    #[error("{setting} = '{address}': the port is in use by another process: stop it, or choose another with --{flag}")]
    InUse {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: String,
        /// Its flag.
        flag: String,
    },
    /// Anything else: permissions, an address of another machine.
    #[error("{setting} = '{address}' cannot be listened on: {source}")]
    Refused {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: String,
        /// What the machine said.
        source: std::io::Error,
    },
}

/// An address that is ours; clients cannot connect yet.
#[derive(Debug)]
pub struct Reserved {
    socket: Socket,
    setting: &'static str,
    address: String,
}

/// Takes `address` (`host:port`) for this process.
pub fn reserve(setting: &'static str, address: &str) -> Result<Reserved, ListenError> {
    let resolve = |reason: String| ListenError::Resolve { setting, address: address.to_owned(), reason };
    let target = address
        .to_socket_addrs()
        .map_err(|error| resolve(error.to_string()))?
        .next()
        .ok_or_else(|| resolve("it has no address".to_owned()))?;
    let bind = || -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        // A restart does not wait for the old connections' last packets; a listening process is still a conflict.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&target.into())?;
        Ok(socket)
    };
    let socket = bind().map_err(|source| refused(setting, address, source))?;
    Ok(Reserved { socket, setting, address: address.to_owned() })
}

impl Reserved {
    /// The address as the machine gave it; with port 0 asked for, the port that was chosen.
    pub fn local_addr(&self) -> Result<SocketAddr, ListenError> {
        let address = self.socket.local_addr().and_then(|address| {
            address.as_socket().ok_or_else(|| std::io::Error::other("the socket has no internet address"))
        });
        address.map_err(|source| refused(self.setting, &self.address, source))
    }

    /// Lets clients connect.
    pub fn open(self) -> Result<TcpListener, ListenError> {
        self.socket
            .listen(BACKLOG)
            .and_then(|()| TcpListener::from_std(self.socket.into()))
            .map_err(|source| refused(self.setting, &self.address, source))
    }
}

fn refused(setting: &'static str, address: &str, source: std::io::Error) -> ListenError {
    let address = address.to_owned();
    if source.kind() == std::io::ErrorKind::AddrInUse {
        ListenError::InUse { setting, address, flag: setting.replace(['.', '_'], "-") }
    } else {
        ListenError::Refused { setting, address, source }
    }
}
