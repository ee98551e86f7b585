// kafkajs against the broker at ESKER_BOOTSTRAP: what goes in comes out, groups share and resume, administrators are answered.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import zstd from '@bokuweb/zstd-wasm'
import kafkajs from 'kafkajs'
import snappy from 'kafkajs-snappy'
import lz4 from 'lz4js'

const { AssignerProtocol, CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = kafkajs
await zstd.init()
CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  // lz4js says that its blocks depend on each other, which Kafka does not take. Up to 4 MiB there is one block only, so the
  // header may say "independent" instead: the flag byte, and the checksum of the header that goes with it.
  compress: async (encoder) => {
    const frame = Buffer.from(lz4.compress(encoder.buffer))
    frame[4] = 0x60
    frame[6] = 0x73
    return frame
  },
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
})

const WAIT_MS = 30_000
const kafka = new Kafka({
  clientId: 'suite', brokers: [process.env.ESKER_BOOTSTRAP], logLevel: logLevel.NOTHING,
  retry: { retries: 20, initialRetryTime: 100, maxRetryTime: 1000 },
})
const admin = kafka.admin()
await admin.connect()
after(() => admin.disconnect())

const name = (word) => `node-${word}-${randomBytes(4).toString('hex')}`

async function until(what, condition, ms = 2 * WAIT_MS) {
  const end = Date.now() + ms
  while (!(await condition())) {
    assert.ok(Date.now() < end, `not within ${ms} ms: ${what}`)
    await sleep(20)
  }
}

async function topic(numPartitions = 1, config = {}) {
  const word = name('t')
  const configEntries = Object.entries(config).map(([k, value]) => ({ name: k, value }))
  await admin.createTopics({ topics: [{ topic: word, numPartitions, replicationFactor: 1, configEntries }], waitForLeaders: false })
  await until('the topic is in the metadata', async () => {
    try {
      return (await admin.fetchTopicMetadata({ topics: [word] })).topics[0].partitions.length === numPartitions
    } catch { return false }
  })
  return word
}

async function send(word, messages, options = {}, settings = {}) {
  const producer = kafka.producer(settings)
  await producer.connect()
  try {
    return await producer.send({ topic: word, messages, ...options })
  } finally {
    await producer.disconnect()
  }
}

// A member of a group: what it holds and what it read.
async function join(word, groupId, settings = {}) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10_000, heartbeatInterval: 500, maxWaitTimeInMs: 300, ...settings })
  const member = { consumer, holds: [], read: [], leave: () => consumer.disconnect() }
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => { member.holds = payload.memberAssignment[word] ?? [] })
  await consumer.connect()
  await consumer.subscribe({ topic: word, fromBeginning: true })
  await consumer.run({
    eachMessage: async ({ partition, message }) => { member.read.push({ partition, ...message }) },
  })
  return member
}

async function readAll(word, count, settings) {
  const member = await join(word, name('g'), settings)
  try {
    await until(`${count} messages`, () => member.read.length >= count)
    assert.equal(member.read.length, count)
    return member.read
  } finally {
    await member.leave()
  }
}

function restart(signal) {
  execFileSync('python3', [process.env.ESKER_BROKER_SCRIPT, '--dir', process.env.ESKER_BROKER_DIR, 'restart', '--signal', signal])
}

const fails = (type, action) => assert.rejects(action, (error) => {
  const found = error.type ?? error.cause?.type ?? error.errors?.[0]?.type ?? error.groups?.[0]?.errorCode
  assert.equal(found, type, `${error}`)
  return true
})

test('every codec with every acks', async () => {
  for (const acks of [0, 1, -1]) {
    for (const codec of ['None', 'GZIP', 'Snappy', 'LZ4', 'ZSTD']) {
      const word = await topic()
      const sent = Array.from({ length: 200 }, (_, n) => ({ value: `${codec} ${acks} ${n} `.repeat(10) }))
      await send(word, sent, { acks, compression: CompressionTypes[codec] })
      const got = await readAll(word, sent.length)
      assert.deepEqual(got.map((m) => m.value.toString()), sent.map((m) => m.value), `${codec} acks=${acks}`)
      assert.deepEqual(got.map((m) => m.offset), sent.map((_, n) => `${n}`))
    }
  }
})

test('keys, headers, nulls and empties', async () => {
  const word = await topic()
  await send(word, [
    { key: 'key', value: 'value', headers: { a: ['1', '2'], b: Buffer.from([0, 255]) } },
    { key: null, value: 'no key' },
    { key: 'tombstone', value: null },
    { key: '', value: '' },
  ])
  const got = await readAll(word, 4)
  assert.deepEqual(got.map((m) => m.key?.toString() ?? null), ['key', null, 'tombstone', ''])
  assert.deepEqual(got.map((m) => m.value?.toString() ?? null), ['value', 'no key', null, ''])
  assert.deepEqual(got[0].headers.a.map(String), ['1', '2'])
  assert.deepEqual([...got[0].headers.b], [0, 255])
})

test('a record of 900 KB, and one too large', async () => {
  const word = await topic()
  const big = randomBytes(900_000)
  await send(word, [{ value: big }])
  assert.ok((await readAll(word, 1, { maxBytesPerPartition: 1000 }))[0].value.equals(big))
  await fails('MESSAGE_TOO_LARGE', () => send(word, [{ value: randomBytes(1_500_000) }], {}, { retry: { retries: 1 } }))
})

test('timestamps', async () => {
  const kept = await topic()
  await send(kept, [{ value: 'v', timestamp: '1600000000123' }])
  assert.equal((await readAll(kept, 1))[0].timestamp, '1600000000123')
  const appended = await topic(1, { 'message.timestamp.type': 'LogAppendTime' })
  const begin = Date.now() - 5
  await send(appended, [{ value: 'v', timestamp: '1600000000123' }])
  const stamp = Number((await readAll(appended, 1))[0].timestamp)
  assert.ok(stamp >= begin && stamp <= Date.now() + 5, `${stamp}`)
})

test('idempotent producer across a restart', async () => {
  const word = await topic(2)
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  for (let lap = 0; lap < 100; lap++) {
    const messages = Array.from({ length: 20 }, (_, n) => ({ partition: n % 2, value: `${lap * 10 + Math.floor(n / 2)}` }))
    const sent = producer.send({ topic: word, messages })
    if (lap === 50) restart('KILL')
    await sent
  }
  await producer.disconnect()
  const got = await readAll(word, 2000)
  for (const partition of [0, 1]) {
    const values = got.filter((m) => m.partition === partition).map((m) => Number(m.value))
    assert.deepEqual(values, Array.from({ length: 1000 }, (_, n) => n))
  }
})

test('offsets: seek, beginning, end, timestamp, out of range', async () => {
  const word = await topic()
  const messages = Array.from({ length: 100 }, (_, n) => ({ value: `${n}`, timestamp: `${1_700_000_000_000 + n * 1000}` }))
  await send(word, messages)
  assert.deepEqual(await admin.fetchTopicOffsets(word), [{ partition: 0, offset: '100', high: '100', low: '0' }])
  assert.deepEqual(await admin.fetchTopicOffsetsByTimestamp(word, 1_700_000_030_001), [{ partition: 0, offset: '31' }])
  for (const [offset, first] of [['42', '42'], ['99', '99'], ['5000', '0']]) {
    const consumer = kafka.consumer({ groupId: name('g'), maxWaitTimeInMs: 300 })
    await consumer.connect()
    await consumer.subscribe({ topic: word, fromBeginning: true })
    const read = []
    let sought = false
    consumer.on(consumer.events.FETCH_START, () => {
      if (!sought) consumer.seek({ topic: word, partition: 0, offset })
      sought = true
    })
    consumer.on(consumer.events.GROUP_JOIN, () => {
      if (!sought) consumer.seek({ topic: word, partition: 0, offset })
      sought = true
    })
    await consumer.run({ eachMessage: async ({ message }) => { read.push(message.offset) } })
    await until(`something from ${offset}`, () => read.length > 0)
    await consumer.disconnect()
    assert.equal(read[0], first)
  }
})

test('three members over six partitions, one leaves, one joins', async () => {
  const word = await topic(6)
  const group = name('g')
  const shared = (members) => {
    const all = members.flatMap((m) => m.holds).sort()
    return members.every((m) => m.holds.length > 0) && all.join() === '0,1,2,3,4,5'
  }
  let members = await Promise.all([1, 2, 3].map(() => join(word, group)))
  const everybody = [...members]
  await until('three share', () => shared(members))
  const messages = Array.from({ length: 600 }, (_, n) => ({ partition: n % 6, value: `${n}` }))
  await send(word, messages)
  const seen = () => new Set(everybody.flatMap((m) => m.read.map((r) => `${r.partition}/${r.offset}`))).size
  await until('all are read', () => seen() === 600)
  await members.pop().leave()
  await until('two share', () => shared(members))
  members.push(await join(word, group))
  everybody.push(members[2])
  await until('three share again', () => shared(members))
  await send(word, messages.slice(0, 60))
  await until('the rest is read', () => seen() === 660)
  await Promise.all(members.map((m) => m.leave()))
})

test('commit and resume after a restart', async () => {
  const word = await topic(2)
  const group = name('g')
  await send(word, Array.from({ length: 100 }, (_, n) => ({ partition: n % 2, value: `${n}` })))
  await admin.setOffsets({ groupId: group, topic: word, partitions: [{ partition: 0, offset: '30' }, { partition: 1, offset: '50' }] })
  for (const signal of ['KILL', 'TERM']) {
    restart(signal)
    let partitions
    await until('the coordinator answers', async () => { // kafkajs gives up early while a broker is starting
      try {
        partitions = (await admin.fetchOffsets({ groupId: group, topics: [word] }))[0].partitions
        return true
      } catch { return false }
    })
    assert.deepEqual(partitions.map((p) => [p.partition, p.offset]).sort(), [[0, '30'], [1, '50']], signal)
  }
  const member = await join(word, group)
  await until('the last twenty', () => member.read.length >= 20)
  await member.leave()
  assert.ok(member.read.every((r) => r.partition === 0 && Number(r.offset) >= 30))
})

test('groups: list, describe, delete', async () => {
  const word = await topic(2)
  const group = name('g')
  const member = await join(word, group)
  await until('it holds both', () => member.holds.length === 2)
  assert.ok((await admin.listGroups()).groups.some((g) => g.groupId === group && g.protocolType === 'consumer'))
  const told = (await admin.describeGroups([group])).groups[0]
  assert.equal(told.state, 'Stable')
  assert.equal(told.protocol, 'RoundRobinAssigner')
  assert.deepEqual(AssignerProtocol.MemberAssignment.decode(told.members[0].memberAssignment).assignment[word].sort(), [0, 1])
  await assert.rejects(admin.deleteGroups([group]), (e) => e.groups?.[0].error.type === 'NON_EMPTY_GROUP')
  await member.leave()
  await admin.setOffsets({ groupId: group, topic: word, partitions: [{ partition: 0, offset: '1' }] })
  await admin.deleteGroups([group])
  assert.ok(!(await admin.listGroups()).groups.some((g) => g.groupId === group))
})

test('topics: create, configs, partitions, delete records, delete', async () => {
  const word = await topic(2, { 'retention.ms': '60000' })
  await fails('TOPIC_ALREADY_EXISTS', () => admin.createTopics({ topics: [{ topic: word }], waitForLeaders: false }).then((made) => {
    if (!made) throw Object.assign(new Error('not made'), { type: 'TOPIC_ALREADY_EXISTS' })
  }))
  const configs = async () => {
    const told = await admin.describeConfigs({ includeSynonyms: true, resources: [{ type: ConfigResourceTypes.TOPIC, name: word }] })
    return Object.fromEntries(told.resources[0].configEntries.map((c) => [c.configName, c.configValue]))
  }
  assert.equal((await configs())['retention.ms'], '60000')
  await admin.alterConfigs({ validateOnly: false, resources: [{ type: ConfigResourceTypes.TOPIC, name: word, configEntries: [{ name: 'retention.bytes', value: '77' }] }] })
  await until('altered', async () => (await configs())['retention.bytes'] === '77')
  assert.equal((await configs())['retention.ms'], '604800000')
  await admin.createPartitions({ topicPartitions: [{ topic: word, count: 5 }] })
  await until('five partitions', async () => (await admin.fetchTopicMetadata({ topics: [word] })).topics[0].partitions.length === 5)
  await send(word, Array.from({ length: 10 }, () => ({ partition: 0, value: 'v' })))
  await admin.deleteTopicRecords({ topic: word, partitions: [{ partition: 0, offset: '4' }] })
  assert.equal((await admin.fetchTopicOffsets(word)).find((p) => p.partition === 0).low, '4')
  await admin.deleteTopics({ topics: [word] })
  await until('it is gone', async () => !(await admin.listTopics()).includes(word))
  await fails('UNKNOWN_TOPIC_OR_PARTITION', () => admin.deleteTopics({ topics: [word], timeout: 1000 }))
})

test('cluster, auto-create', async () => {
  const cluster = await admin.describeCluster()
  assert.equal(cluster.brokers.length, 1)
  assert.equal(cluster.controller, cluster.brokers[0].nodeId)
  assert.ok(cluster.clusterId)
  const word = name('auto')
  await send(word, [{ value: 'v' }])
  await readAll(word, 1)
})

test('a tailing consumer gets a record at once', async () => {
  const word = await topic()
  const member = await join(word, name('g'), { maxWaitTimeInMs: 5000 })
  await send(word, [{ value: 'warm' }])
  await until('the first', () => member.read.length === 1)
  const producer = kafka.producer()
  await producer.connect()
  for (let n = 0; n < 5; n++) {
    await sleep(500) // the fetch is parked now
    const begin = Date.now()
    await producer.send({ topic: word, messages: [{ value: 'v' }] })
    await until('the next', () => member.read.length === n + 2)
    assert.ok(Date.now() - begin < 1500, `${Date.now() - begin} ms with a fetch wait of 5000 ms`)
  }
  await producer.disconnect()
  await member.leave()
})
