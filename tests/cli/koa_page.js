// The flow of the example page of the koa and mongo login server, with a `wx` for node.
// It does what that page does, written anew: it logs in, gets the
// user's data, sends both, and keeps the token; then it asks for what needs one.
// node koa_page.js SERVER SIMULATOR OPEN_ID prints what the page got, as JSON.

const http = require('http')

const [server, simulator, openId] = process.argv.slice(2)
const storage = new Map()

function send (url, { method = 'GET', header = {}, body }, success, fail) {
  const request = http.request(url, { method, headers: header, agent: false }, response => {
    let text = ''
    response.setEncoding('utf8')
    response.on('data', chunk => { text += chunk })
    response.on('end', () => success({ statusCode: response.statusCode, data: JSON.parse(text) }))
  })
  request.on('error', error => fail({ errMsg: `request:fail ${error.message}` }))
  request.end(body)
}

function ask (what, success, fail) {
  const body = JSON.stringify({ open_id: openId })
  send(`${simulator}/simulator/${what}`, { method: 'POST', body }, success, fail)
}

// As WeChat's: a GET has its data in the URL, and an answer of JSON is parsed.
const wx = {
  login: ({ success, fail }) => ask('login', answer => success({ code: answer.data.code }), fail),
  getUserInfo: ({ success, fail }) => ask('user_info', ({ data }) => success({
    userInfo: JSON.parse(data.rawData), encryptedData: data.encryptedData, iv: data.iv
  }), fail),
  request: ({ url, data = {}, header, success, fail }) => {
    const full = new URL(url)
    for (const [name, value] of Object.entries(data)) {
      full.searchParams.append(name, typeof value === 'object' ? JSON.stringify(value) : value)
    }
    send(full, { header }, success, fail)
  },
  setStorageSync: (key, value) => storage.set(key, value),
  getStorageSync: key => storage.get(key) || ''
}

const page = {
  test (done) {
    wx.request({
      url: `${server}/home/test`,
      header: { authorization: `Bearer ${wx.getStorageSync('TOKEN')}` },
      success: done,
      fail: done
    })
  },
  login (done) {
    wx.login({
      success: ({ code }) => wx.getUserInfo({
        success: ({ userInfo, encryptedData, iv }) => wx.request({
          url: `${server}/user/login`,
          data: { code, encryptedData, iv, userInfo },
          success: answer => {
            if (answer.data.Token) wx.setStorageSync('TOKEN', answer.data.Token)
            done(answer)
          },
          fail: done
        }),
        fail: done
      }),
      fail: done
    })
  }
}

const tap = name => new Promise(resolve => page[name](resolve))

async function main () {
  const got = []
  for (const name of ['test', 'login', 'test', 'login', 'test']) got.push(await tap(name))
  console.log(JSON.stringify(got))
}

main()
