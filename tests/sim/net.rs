//! Connections between clients and brokers: ordered bytes that take their time, get stuck in a partition, or break.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use esker::broker::BrokerSlot;
use esker::frontend::kafka::{Front, serve_halves};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use crate::world::{Place, World};

/// How often a stuck connection tries again, in microseconds.
const STUCK_US: u64 = 20_000;

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    /// On their way: when they arrive at the earliest; no bytes mean the end.
    sent: VecDeque<(u64, Bytes)>,
    arrived: VecDeque<Bytes>,
    ended: bool,
    broken: bool,
    reader: Option<Waker>,
}

/// One end of a connection.
pub struct Stream {
    world: World,
    ways: (Place, Place),
    inbox: Arc<Mutex<Pipe>>,
    outbox: Arc<Mutex<Pipe>>,
}

/// Both ends of a new connection.
fn connection(world: &World, from: Place, to: Place) -> (Stream, Stream) {
    let (there, back) = (Arc::new(Mutex::new(Pipe::default())), Arc::new(Mutex::new(Pipe::default())));
    let near = Stream { world: world.clone(), ways: (from, to), inbox: back.clone(), outbox: there.clone() };
    let far = Stream { world: world.clone(), ways: (to, from), inbox: there, outbox: back };
    (near, far)
}

fn latency_us(world: &World) -> u64 {
    world.between(200, 2_000)
}

/// No answer: whoever waits gives up after their own time.
fn drop_later<T: Send + 'static>(world: &World, answer: tokio::sync::oneshot::Sender<T>) {
    world.after(60_000_000, move || drop(answer));
}

/// Moves what has arrived into the reader's hands, or tries again later while the way is cut.
fn pump(world: &World, ways: (Place, Place), pipe: &Arc<Mutex<Pipe>>) {
    let mut inner = pipe.lock();
    if !world.reaches(ways.0, ways.1) {
        let (again, held) = (world.clone(), pipe.clone());
        world.after(STUCK_US, move || pump(&again, ways, &held));
        return;
    }
    let now_us = world.now_us();
    while inner.sent.front().is_some_and(|(due_us, _)| *due_us <= now_us) {
        let Some((_, bytes)) = inner.sent.pop_front() else { break };
        if bytes.is_empty() {
            inner.ended = true;
        } else {
            inner.arrived.push_back(bytes);
        }
    }
    let reader = inner.reader.take();
    drop(inner);
    if let Some(reader) = reader {
        reader.wake();
    }
}

impl Stream {
    fn send(&self, bytes: Bytes) {
        let due_us = {
            let mut pipe = self.outbox.lock();
            let after_us = pipe.sent.back().map_or(0, |(due_us, _)| *due_us);
            let due_us = (self.world.now_us() + latency_us(&self.world)).max(after_us);
            pipe.sent.push_back((due_us, bytes));
            due_us
        };
        let (world, ways, pipe) = (self.world.clone(), self.ways, self.outbox.clone());
        self.world.at(due_us, move || pump(&world, ways, &pipe));
    }

    /// Breaks the connection for both sides at once.
    fn breaker(&self) -> Breaker {
        let pipes = [self.inbox.clone(), self.outbox.clone()];
        Box::new(move || {
            for pipe in pipes {
                let reader = {
                    let mut pipe = pipe.lock();
                    pipe.broken = true;
                    pipe.reader.take()
                };
                if let Some(reader) = reader {
                    reader.wake();
                }
            }
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.send(Bytes::new());
    }
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.inbox.lock();
        if pipe.broken {
            return Poll::Ready(Err(broken()));
        }
        if let Some(mut bytes) = pipe.arrived.pop_front() {
            let now = bytes.split_to(bytes.len().min(into.remaining()));
            into.put_slice(&now);
            if !bytes.is_empty() {
                pipe.arrived.push_front(bytes);
            }
            return Poll::Ready(Ok(()));
        }
        if pipe.ended {
            return Poll::Ready(Ok(()));
        }
        pipe.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.outbox.lock().broken {
            return Poll::Ready(Err(broken()));
        }
        if !bytes.is_empty() {
            self.send(Bytes::copy_from_slice(bytes));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// Which door of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Kafka,
    Grpc,
}

/// Where a broker takes connections of Kafka clients.
struct Listener {
    runtime: tokio::runtime::Handle,
    front: Arc<Front>,
    stop: CancellationToken,
    connections: TaskTracker,
}

/// A machine as others find it.
#[derive(Clone)]
enum Door {
    /// The process is there and answers whoever asks whether it lives.
    Open(tokio::runtime::Handle),
    /// There is no power: nobody answers.
    Dark,
}

/// Who listens. Clones share it. A machine without a door refuses.
#[derive(Clone, Default)]
pub struct Net {
    doors: Arc<Mutex<BTreeMap<i32, Door>>>,
    slots: Arc<Mutex<BTreeMap<i32, BrokerSlot>>>,
    listeners: Arc<Mutex<BTreeMap<i32, Listener>>>,
    /// Where connections of gRPC clients go.
    callers: Arc<Mutex<BTreeMap<i32, mpsc::UnboundedSender<Stream>>>>,
    breakers: Arc<Mutex<Vec<Breaker>>>,
}

type Breaker = Box<dyn FnOnce() + Send>;

impl Net {
    /// A process runs.
    pub fn open_door(&self, machine: i32, runtime: tokio::runtime::Handle) {
        self.doors.lock().insert(machine, Door::Open(runtime));
    }

    /// The process is gone, or its whole machine.
    pub fn close_door(&self, machine: i32, power: bool) {
        self.listeners.lock().remove(&machine);
        self.callers.lock().remove(&machine);
        self.slots.lock().remove(&machine);
        let mut doors = self.doors.lock();
        if power {
            doors.insert(machine, Door::Dark);
        } else {
            doors.remove(&machine);
        }
    }

    /// Kafka clients are welcome.
    pub fn listen(&self, machine: i32, runtime: tokio::runtime::Handle, front: Arc<Front>) {
        let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
        self.listeners.lock().insert(machine, Listener { runtime, front, stop, connections });
    }

    /// gRPC clients and brokers are welcome: their connections come out here.
    pub fn listen_to_callers(&self, machine: i32) -> mpsc::UnboundedReceiver<Stream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.callers.lock().insert(machine, sender);
        receiver
    }

    /// Nobody is let in through the gRPC door any more.
    pub fn refuse_callers(&self, machine: i32) {
        self.callers.lock().remove(&machine);
    }

    /// Kafka clients are not welcome any more; resolves when those who are there have got their replies.
    pub async fn stop_listening(&self, machine: i32) {
        let Some(listener) = self.listeners.lock().remove(&machine) else { return };
        listener.stop.cancel();
        listener.connections.close();
        listener.connections.wait().await;
    }

    /// Brokers may ask this one what it knows.
    pub fn listen_to_peers(&self, machine: i32, slot: BrokerSlot) {
        self.slots.lock().insert(machine, slot);
    }

    /// Asks a machine's process; no answer while the way is cut, the process pauses or the power is gone. `tell` runs there
    /// and gets the broker, if one is open.
    pub async fn ask<T: Send + 'static>(
        &self,
        world: &World,
        from: Place,
        machine: i32,
        tell: impl FnOnce(Option<BrokerSlot>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let place = Place::Broker(machine);
        let (answer, answered) = tokio::sync::oneshot::channel();
        let (net, far) = (self.clone(), world.clone());
        world.after(latency_us(world), move || {
            let door = net.doors.lock().get(&machine).cloned();
            match door {
                _ if !far.reaches(from, place) => drop_later(&far, answer),
                Some(Door::Dark) => drop_later(&far, answer),
                None => {
                    let _ = answer.send(Err(io::Error::from(io::ErrorKind::ConnectionRefused)));
                }
                Some(Door::Open(runtime)) => {
                    runtime.spawn(async move {
                        let near = far.clone();
                        let slot = net.slots.lock().get(&machine).cloned();
                        let told = tell(slot);
                        far.after(latency_us(&far), move || {
                            if near.reaches(from, place) {
                                let _ = answer.send(told);
                            }
                        });
                    });
                }
            }
        });
        answered.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Connects a client to a broker; refused while it does not listen, no answer while it cannot be reached.
    pub async fn connect(&self, world: &World, from: Place, broker: i32, port: Port) -> io::Result<Stream> {
        let place = Place::Broker(broker);
        let (answer, answered) = tokio::sync::oneshot::channel();
        let (net, far_world) = (self.clone(), world.clone());
        world.after(latency_us(world), move || {
            let dark = matches!(net.doors.lock().get(&broker), Some(Door::Dark));
            if dark || !far_world.reaches(from, place) {
                drop_later(&far_world, answer);
                return;
            }
            let _ = answer.send(net.accept(&far_world, from, broker, port));
        });
        answered.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    fn accept(&self, world: &World, from: Place, broker: i32, port: Port) -> io::Result<Stream> {
        let (listeners, callers) = (self.listeners.lock(), self.callers.lock());
        let there = if port == Port::Kafka { listeners.contains_key(&broker) } else { callers.contains_key(&broker) };
        if !there {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = connection(world, from, Place::Broker(broker));
        self.breakers.lock().push(near.breaker());
        if port == Port::Grpc {
            if let Some(caller) = callers.get(&broker) {
                // A server that has ended drops it: the other end sees that it is closed.
                let _ = caller.send(far);
            }
        } else if let Some(listener) = listeners.get(&broker) {
            let peer = SocketAddr::from(([10, 0, 0, 1], 1024));
            let serving = serve_halves(listener.front.clone(), tokio::io::split(far), peer, listener.stop.clone());
            listener.connections.spawn_on(serving, &listener.runtime);
        }
        Ok(near)
    }

    /// Breaks about one in `share` of all connections that were ever made and are still open.
    pub fn break_some(&self, world: &World, share: u64) {
        let mut kept = Vec::new();
        for breaker in std::mem::take(&mut *self.breakers.lock()) {
            if world.rng().below(share) == 0 {
                breaker();
            } else {
                kept.push(breaker);
            }
        }
        *self.breakers.lock() = kept;
    }
}
