// A `wx` for node: wx.request is real HTTP, wx.login asks the test's server for a code.
// Runs a scenario: node wx_shim.js BASE_URL SCENARIO, and prints its result as JSON.

const http = require('http')
const { createClient } = require('../../docs/examples/miniprogram/login.js')

const [baseUrl, scenario] = process.argv.slice(2)
const storage = new Map()
const counts = { login: 0 }

function call ({ url, method = 'GET', data, header = {}, success, fail }) {
  const body = data === undefined ? undefined : JSON.stringify(data)
  const headers = { ...header, ...(body && { 'content-type': 'application/json' }) }
  const request = http.request(url, { method, headers, agent: false }, response => {
    let text = ''
    response.on('data', chunk => { text += chunk })
    response.on('error', error => fail({ errMsg: `request:fail ${error.message}` }))
    response.on('end', () => {
      let parsed = text
      try { parsed = JSON.parse(text) } catch {}
      success({ statusCode: response.statusCode, data: parsed, header: response.headers })
    })
  })
  request.on('error', error => fail({ errMsg: `request:fail ${error.message}` }))
  request.end(body)
}

const wx = {
  getStorageSync: key => storage.get(key) || '',
  setStorageSync: (key, value) => storage.set(key, value),
  removeStorageSync: key => storage.delete(key),
  request: call,
  login: ({ success, fail }) => {
    counts.login++
    call({ url: baseUrl + '/code', success: answer => success({ code: answer.data }), fail })
  }
}

const post = path => new Promise((resolve, reject) =>
  call({ url: baseUrl + path, method: 'POST', success: resolve, fail: reject }))

const scenarios = {
  async oneFlight (client) {
    const answers = await Promise.all([1, 2, 3, 4, 5].map(() => client.request({ url: '/me' })))
    return answers.map(answer => answer.statusCode)
  },
  async revoked (client) {
    await client.login()
    await post('/test/revoke')
    const answers = await Promise.all([1, 2, 3].map(() => client.request({ url: '/me' })))
    return answers.map(answer => answer.statusCode)
  },
  async unavailable (client) {
    await client.login()
    const before = client.token
    await post('/test/break')
    const broken = await client.request({ url: '/me' })
    await post('/test/mend')
    const mended = await client.request({ url: '/me' })
    return [broken.statusCode, mended.statusCode, client.token === before]
  },
  async lostAnswer (client) {
    await client.login()
    const before = client.token
    await post('/test/lose')
    await Promise.all([client.rotate(), client.rotate()])
    const answer = await client.request({ url: '/me' })
    return [answer.statusCode, client.token !== before]
  },
  async oldToken () {
    const client = createClient({ baseUrl, api: wx, rotateAfter: -1 })
    await client.login()
    const before = client.token
    const answer = await client.request({ url: '/me' })
    return [answer.statusCode, client.token !== before]
  },
  async oldTokenWhileUnavailable () {
    const client = createClient({ baseUrl, api: wx, rotateAfter: -1 })
    await client.login()
    const before = client.token
    await post('/test/break')
    const answer = await client.request({ url: '/me' })
    return [answer.statusCode, client.token === before]
  },
  async banned (client) {
    await client.login()
    await post('/test/ban')
    const answer = await client.request({ url: '/me' })
    const refused = await client.login().catch(error => error)
    return [answer.statusCode, refused.statusCode]
  },
  async logout (client) {
    await client.login()
    await client.logout()
    return [client.token, storage.size]
  },
  async restart (client) {
    await client.login()
    const next = createClient({ baseUrl, api: wx })
    return [(await next.request({ url: '/me' })).statusCode, next.token === client.token]
  }
}

scenarios[scenario](createClient({ baseUrl, api: wx }))
  .then(result => console.log(JSON.stringify({ result, logins: counts.login })))
