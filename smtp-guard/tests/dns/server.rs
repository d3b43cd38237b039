//! A DNS server on loopback, UDP and TCP, that does as a script says, and remembers what it was asked.
//!
//! Made by hand from messages, not from a server library: most of what it does no server library lets one do.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// What hickory takes over UDP; what is longer is truncated, as a real server would.
const UDP_SIZE: usize = 1232;

/// The server's act on a question.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers with these, owned by the name that was asked for.
    Found(Vec<RData>),
    /// Answers with these.
    Records(Vec<Record>),
    NoData,
    NxDomain,
    Code(ResponseCode),
    /// NOERROR with the names of other servers.
    Referral,
    /// Says nothing.
    Silent,
    /// Answers so a question with an OPT record; the other one without.
    NoEdns(ResponseCode, Box<Act>),
    /// Says nothing until the gate has a permit.
    Late(Arc<Semaphore>, Box<Act>),
    /// A truncated answer over UDP; the other over TCP.
    Truncated(Box<Act>),
    /// Bytes that are no message behind an id that is right.
    Garbage,
    WrongId(Box<Act>),
    /// The question in the answer is for another name.
    WrongQuestion(Box<Act>),
    /// The question in the answer has lost its case, as a forger would have to guess it.
    WrongCase(Box<Act>),
}

/// Questions and what is done with them. What isn't there is NXDOMAIN.
pub(crate) type Script = HashMap<(String, RecordType), Act>;

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) async fn start(script: &[(&str, RecordType, Act)]) -> Self {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The UDP port of that number may be somebody's.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let server = Self { address, script: Arc::default(), asked: Arc::default() };
        server.set(script);
        tokio::spawn(server.clone().serve_udp(Arc::new(udp)));
        tokio::spawn(server.clone().serve_tcp(tcp));
        server
    }

    /// Adds to the script.
    pub(crate) fn set(&self, script: &[(&str, RecordType, Act)]) {
        let lines = script.iter().map(|(name, kind, act)| (((*name).to_owned(), *kind), act.clone()));
        self.script.lock().unwrap().extend(lines);
    }

    /// The questions so far: `udp MX example.org`, or `udp-plain MX example.org` without EDNS.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    async fn serve_udp(self, socket: Arc<UdpSocket>) {
        let mut buffer = [0; 4096];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            let (server, socket, bytes) = (self.clone(), Arc::clone(&socket), buffer[..length].to_vec());
            tokio::spawn(async move {
                if let Some(answer) = server.answer(&bytes, "udp").await {
                    socket.send_to(&answer, peer).await.unwrap();
                }
            });
        }
    }

    async fn serve_tcp(self, listener: TcpListener) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let server = self.clone();
            tokio::spawn(async move { while server.serve_stream(&mut stream).await.is_ok() {} });
        }
    }

    async fn serve_stream(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut bytes = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut bytes).await?;
        if let Some(answer) = self.answer(&bytes, "tcp").await {
            stream.write_u16(answer.len().try_into().unwrap()).await?;
            stream.write_all(&answer).await?;
        }
        Ok(())
    }

    async fn answer(&self, bytes: &[u8], protocol: &str) -> Option<Vec<u8>> {
        let question = Message::from_vec(bytes).unwrap();
        assert!(question.recursion_desired);
        let query = question.queries[0].clone();
        let name = query.name().to_ascii().to_lowercase();
        let name = if name == "." { name } else { name.trim_end_matches('.').to_owned() };
        let plain = if question.edns.is_some() { "" } else { "-plain" };
        self.asked.lock().unwrap().push(format!("{protocol}{plain} {} {name}", query.query_type()));
        let act = self.script.lock().unwrap().get(&(name, query.query_type())).cloned();
        let mut act = act.unwrap_or(Act::NxDomain);
        let mut answer = Message::response(question.id, OpCode::Query);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        loop {
            act = match act {
                Act::Silent => return None,
                Act::Garbage => return Some([&bytes[..2], &[0xff; 40]].concat()),
                Act::Late(gate, act) => {
                    gate.acquire().await.unwrap().forget();
                    *act
                }
                Act::Truncated(_) if protocol == "udp" => {
                    answer.metadata.truncation = true;
                    Act::Found(Vec::new())
                }
                Act::Truncated(act) => *act,
                Act::NoEdns(code, _) if question.edns.is_some() => Act::Code(code),
                Act::NoEdns(_, act) => *act,
                Act::WrongId(act) => {
                    answer.metadata.id ^= 1;
                    *act
                }
                Act::WrongQuestion(act) => {
                    answer.queries = vec![Query::query(name_of("other.example"), query.query_type())];
                    *act
                }
                Act::WrongCase(act) => {
                    answer.queries = vec![Query::query(query.name().to_lowercase(), query.query_type())];
                    *act
                }
                done => break fill(&mut answer, query.name(), done),
            };
        }
        let bytes = answer.to_vec().unwrap();
        if protocol == "udp" && bytes.len() > UDP_SIZE {
            return Some(answer.truncate().to_vec().unwrap());
        }
        Some(bytes)
    }
}

fn fill(answer: &mut Message, asked: &Name, act: Act) {
    let soa = SOA::new(name_of("ns.example"), name_of("hostmaster.example"), 1, 1, 1, 1, 60);
    let soa = Record::from_rdata(name_of("example"), 60, RData::SOA(soa));
    match act {
        Act::Found(data) => {
            answer.answers = data.into_iter().map(|d| Record::from_rdata(asked.clone(), 60, d)).collect()
        }
        Act::Records(records) => answer.answers = records,
        Act::Code(code) => answer.metadata.response_code = code,
        Act::NoData => answer.authorities = vec![soa],
        Act::Referral => {
            let ns = RData::NS(NS(name_of("ns.elsewhere.example")));
            answer.authorities = vec![Record::from_rdata(name_of("example"), 60, ns)];
        }
        Act::NxDomain => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.authorities = vec![soa];
        }
        other => panic!("not an answer: {other:?}"),
    }
}

pub(crate) fn name_of(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

pub(crate) fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name_of(owner), 60, data)
}

pub(crate) fn mx(preference: u16, exchange: &str) -> RData {
    RData::MX(MX::new(preference, name_of(exchange)))
}

pub(crate) fn a(address: &str) -> RData {
    RData::A(A(address.parse().unwrap()))
}

pub(crate) fn aaaa(address: &str) -> RData {
    RData::AAAA(AAAA(address.parse().unwrap()))
}

pub(crate) fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(name_of(target)))
}

pub(crate) fn ptr(target: &str) -> RData {
    RData::PTR(PTR(name_of(target)))
}

/// A PTR of any bytes.
pub(crate) fn raw_ptr(labels: &[&[u8]]) -> RData {
    RData::PTR(PTR(Name::from_labels(labels.iter().copied()).unwrap()))
}
