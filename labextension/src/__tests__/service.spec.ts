import { ServerConnection } from '@jupyterlab/services';
import { SandboxService } from '../service';
import { SANDBOX } from './fixtures';

describe('SandboxService', () => {
  let answer: jest.Mock<Promise<Response>, [Request]>;
  let service: SandboxService;

  beforeEach(() => {
    answer = jest.fn<Promise<Response>, [Request]>();
    service = new SandboxService(
      ServerConnection.makeSettings({
        baseUrl: 'http://localhost/user/a/',
        token: 'secret',
        fetch: answer as unknown as typeof fetch
      })
    );
  });

  it('asks below the base url and with the token', async () => {
    answer.mockResolvedValue(
      new Response(JSON.stringify({ sandboxes: [SANDBOX] }))
    );
    await expect(service.list()).resolves.toEqual([SANDBOX]);
    const request = answer.mock.calls[0][0];
    expect(request.url).toMatch(
      'http://localhost/user/a/vsandbox/api/sandboxes'
    );
    expect(request.headers.get('Authorization')).toBe('token secret');
  });

  it("passes the server's message on", async () => {
    answer.mockResolvedValue(
      new Response(JSON.stringify({ message: 'The store is gone.' }), {
        status: 503
      })
    );
    await expect(service.list()).rejects.toMatchObject({
      message: 'The store is gone.',
      response: { status: 503 }
    });
  });

  it('rejects with a network error where nobody answers', async () => {
    answer.mockRejectedValue(new TypeError('Failed to fetch'));
    await expect(service.list()).rejects.toBeInstanceOf(
      ServerConnection.NetworkError
    );
  });
});
