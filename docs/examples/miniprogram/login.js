// Login for a mini-program whose server has the routes of mpauthx_async.web.
//
//   const { createClient } = require('./login.js')
//   const client = createClient({ baseUrl: 'https://api.example.com', authPrefix: '/auth' })
//   const { data } = await client.request({ url: '/hello' })
//
// - Calls made at the same time share one login and one rotation.
// - A 401 logs in again, once for each request. A 503 never does: the server cannot tell whether the
//   token is good, so the token is kept and the request can be repeated later.
// - A rotation whose answer is lost is repeated with the same token: the server gives the same new
//   token again for some seconds (rotation_grace).

const STORAGE_KEY = 'mpauthx'
const MAX_ROTATE_ATTEMPTS = 3
const RETRY_DELAY = 500 // milliseconds

class LoginError extends Error {
  // statusCode: of HTTP, 0 when no answer came; data: the body of the answer.
  constructor (message, statusCode, data) {
    super(message)
    this.name = 'LoginError'
    this.statusCode = statusCode
    this.data = data
  }
}

// Options: baseUrl; authPrefix: the path below it where the routes of mpauthx_async.web are;
// api: the `wx` object; device: what the user knows the device by; deviceKind: such as 'phone';
// rotateAfter: the age in milliseconds at which a token is rotated, by default a day.
function createClient ({
  baseUrl, authPrefix = '', api = globalThis.wx, device, deviceKind, rotateAfter = 24 * 3600 * 1000
}) {
  let saved = api.getStorageSync(STORAGE_KEY) || null // { token, since }
  let flight = null // the login or rotation in progress

  function save (token) {
    saved = token ? { token, since: Date.now() } : null
    if (saved) api.setStorageSync(STORAGE_KEY, saved)
    else api.removeStorageSync(STORAGE_KEY)
  }

  // Resolves with every HTTP answer; rejects when none came.
  function send ({ url, method = 'GET', data, header = {} }, token) {
    return new Promise((resolve, reject) => {
      api.request({
        url: baseUrl + url,
        method,
        data,
        header: token ? { ...header, Authorization: `Bearer ${token}` } : header,
        success: resolve,
        fail: error => reject(new LoginError(error.errMsg || 'no answer', 0))
      })
    })
  }

  function getCode () {
    return new Promise((resolve, reject) => {
      api.login({
        success: ({ code }) => resolve(code),
        fail: error => reject(new LoginError(error.errMsg || 'wx.login failed', 0))
      })
    })
  }

  function share (work) {
    if (!flight) flight = work().finally(() => { flight = null })
    return flight
  }

  async function logInNow () {
    const code = await getCode()
    const answer = await send({
      url: `${authPrefix}/login`, method: 'POST', data: { code, device, deviceKind }
    })
    if (answer.statusCode !== 200) throw refusal(answer)
    save(answer.data.response)
  }

  async function rotateNow () {
    for (let attempt = 1; ; attempt++) {
      let answer
      try {
        answer = await send({ url: `${authPrefix}/rotate`, method: 'POST' }, saved.token)
      } catch (error) {
        if (attempt >= MAX_ROTATE_ATTEMPTS) throw error
        await new Promise(resolve => setTimeout(resolve, RETRY_DELAY))
        continue
      }
      if (answer.statusCode === 200) return save(answer.data.response)
      if (answer.statusCode !== 401) throw refusal(answer)
      save(null)
      return logInNow()
    }
  }

  // Log in with a new code, even if there is a token.
  function login () {
    return share(logInNow)
  }

  // Put a new token in the place of the one that is kept; log in if there is none.
  function rotate () {
    return share(saved ? rotateNow : logInNow)
  }

  // Send a request of wx.request's form with the token. Resolves with every answer but a 401.
  async function request (options) {
    for (let attempt = 1; ; attempt++) {
      if (flight) await flight.catch(() => {}) // whoever began it is told if it failed
      const isOld = saved && Date.now() - saved.since > rotateAfter
      if (isOld) await rotate().catch(ignoreUnavailable)
      if (!saved) await login()
      const { token } = saved
      const answer = await send(options, token)
      if (answer.statusCode !== 401) return answer
      if (attempt > 1) throw refusal(answer)
      if (flight) await flight.catch(() => {})
      if (saved && saved.token === token) save(null) // else somebody has renewed it already
    }
  }

  async function logout () {
    if (flight) await flight.catch(() => {})
    if (!saved) return
    const answer = await send({ url: `${authPrefix}/logout`, method: 'POST' }, saved.token)
    if (answer.statusCode !== 200 && answer.statusCode !== 401) throw refusal(answer)
    save(null)
  }

  return { login, logout, request, rotate, get token () { return saved && saved.token } }
}

// A token that could not be rotated now is still good.
function ignoreUnavailable (error) {
  if (error.statusCode !== 0 && error.statusCode !== 503) throw error
}

function refusal (answer) {
  const message = (answer.data && answer.data.status_message) || `HTTP ${answer.statusCode}`
  return new LoginError(message, answer.statusCode, answer.data)
}

module.exports = { createClient, LoginError }
